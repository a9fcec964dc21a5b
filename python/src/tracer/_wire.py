"""Messages to tracer: their bounds, their JSON, and one datagram for each.

The protocol is written down in ``docs/announcements.md``. Every failure means "nobody listens" and is
silence.

No socket is kept: one that lives for a single ``sendto`` cannot be shared over a fork, be closed by code
that closes everything, or have its number given to somebody else's file.

A queue holds 10 datagrams by default (``net.unix.max_dgram_qlen``), and a full one refuses more. Waiting is
out of the question, so what was refused goes out before the next message, with the time when it happened: a
call whose end got lost would be open for ever. Only ``spawn`` is of no use later, and dropped.
"""

from __future__ import annotations

import _socket  # The type that no library replaces by one that waits.
import atexit
import hashlib
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import ClassVar

SOCKET_VARIABLE = "TRACER_SOCKET"
COOKIE_VARIABLE = "TRACER_TOOL_CALL_ID"

_SOCKET_KEY = SOCKET_VARIABLE.encode()

VERSION = 1
MAX_DATAGRAM = 65_536
MAX_ID = 128

# In bytes of UTF-8. `id` and `command` are not here: those must be whole.
_BOUNDS = {
    "agent": 128,
    "background": 128,
    "name": 128,
    "reason": 1_024,
    "session": 128,
    "summary": 1_024,
}


def listener() -> str | None:
    """Path of the socket that tracer listens on, if ``TRACER_SOCKET`` names one."""
    if sys.platform != "linux":
        return None
    # For a variable that is not set `os.environ.get` raises and catches a KeyError, and that would be most of
    # what a call costs where nobody listens.
    raw = getattr(os.environ, "_data", None)
    if isinstance(raw, dict) and _SOCKET_KEY not in raw:
        return None
    return os.environ.get(SOCKET_VARIABLE) or None


def usable_id(text: str) -> str:
    """``text`` where it can be a call's id and an environment variable's value, else one made from it.

    The substitute starts with what of ``text`` can stand and ends with a hash of all of it, so that it is
    the same each time and different for different ids.
    """
    try:
        if 1 <= len(text.encode()) <= MAX_ID and "\0" not in text:
            return text
    except UnicodeEncodeError:
        pass
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{_cut(text.replace(chr(0), '?'), MAX_ID - len(digest) - 1)}~{digest}"


def cookie(id: str) -> dict[str, str]:
    """The cookie of the call ``id``, as text that any encoding of the file system makes the same bytes of."""
    return {COOKIE_VARIABLE: os.fsdecode(id.encode())}


def encode(message: Mapping[str, object]) -> bytes | None:
    """The datagram of ``message``, with its texts cut to their bounds, or None if none can be made.

    ``command`` is left out where it cannot be sent whole.
    """
    fields: dict[str, object] = {"v": VERSION}
    for name, value in message.items():
        if value is None:
            continue
        bound = _BOUNDS.get(name)
        fields[name] = _cut(value, bound) if bound and isinstance(value, str) else value
    data = _json(fields)
    if (data is None or len(data) > MAX_DATAGRAM) and fields.pop("command", None) is not None:
        data = _json(fields)
    return data if data is not None and len(data) <= MAX_DATAGRAM else None


def send(path: str, message: Mapping[str, object]) -> None:
    """Sends ``message`` with the time of now, without waiting, to whoever has bound ``path``.

    Raises nothing.
    """
    if sys.platform != "linux":
        return
    # Nothing of this may reach the agent.
    with suppress(Exception):
        data = encode({"at": time.clock_gettime_ns(time.CLOCK_BOOTTIME), **message})
        if data is None:
            return
        if message.get("type") == "spawn":
            # Before the fork or never: not in the queue of what comes late, nor behind it.
            _sent(path, data)
        elif _Late.messages or not _sent(path, data):
            _Late.messages.append((path, data))
            _send_late()


class _Late:
    """What the listener's queue had no room for, oldest first. The oldest are given up."""

    messages: ClassVar[deque[tuple[str, bytes]]] = deque(maxlen=256)
    # Never waited for: whoever holds it sends for all.
    sending = threading.Lock()


def _send_late() -> None:
    while _Late.messages:
        if not _Late.sending.acquire(blocking=False):
            return
        try:
            while _Late.messages:
                # Taken away only once sent, so that nobody thinks the way is clear and overtakes.
                oldest = _Late.messages[0]
                if not _sent(*oldest):
                    return
                if _Late.messages[0] is oldest:
                    _Late.messages.popleft()
        finally:
            _Late.sending.release()
        # Whoever was turned away meanwhile has left a message.


def _sent(path: str, data: bytes) -> bool:
    """Whether that is settled: taken, or nobody is there to take it. False: no room now."""
    # Non-blocking from birth: `socket.setdefaulttimeout` would otherwise make it wait.
    sender = _socket.socket(_socket.AF_UNIX, _KIND)
    try:
        sender.sendto(data, _FLAGS, path)
    except BlockingIOError:
        return False
    except OSError:
        # Gone: the socket is gone when tracer is.
        return True
    finally:
        sender.close()
    return True


def _at_exit() -> None:
    with suppress(Exception):
        _send_late()


def _after_fork() -> None:
    # The parent sends its own, and one of its threads may have held the lock.
    _Late.messages = deque(maxlen=_Late.messages.maxlen)
    _Late.sending = threading.Lock()


if sys.platform == "linux":
    _KIND = _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
    _FLAGS = _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL
    atexit.register(_at_exit)
    os.register_at_fork(after_in_child=_after_fork)


def _json(fields: Mapping[str, object]) -> bytes | None:
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError):
        # Among them UnicodeEncodeError: a lone surrogate has no UTF-8.
        return None


def _cut(text: str, bound: int) -> str:
    """The longest beginning of ``text`` that fits ``bound`` bytes, lone surrogates replaced."""
    return text[:bound].encode(errors="replace")[:bound].decode(errors="ignore")
