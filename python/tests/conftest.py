"""A listener in tracer's place, and children that tell what they were given."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tracer import _wire

DEADLINE = 60.0  # Seconds after which a test gives up on what should happen at once.


class Message(NamedTuple):
    """A datagram as tracer gets it."""

    sender: int  # Who sent it, as the kernel says.
    received: int  # ns of CLOCK_BOOTTIME.
    size: int
    fields: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.fields["type"])


class Listener:
    """Binds a path and reads all that comes, until closed."""

    _MARK = b"that is all so far"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(path))
        self._messages: list[Message] = []
        self._marked = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._read, name="listener", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(1 << 20, 4096)
            if data == b"":
                return
            if data == self._MARK:
                self._marked.release()
                continue
            (_, _, credentials) = ancillary[0]
            pid, _, _ = struct.unpack("3i", credentials[:12])
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            self._messages.append(Message(pid, now, len(data), json.loads(data.decode())))

    def messages(self, kind: str | None = None) -> list[Message]:
        """All messages sent so far, or those of one type, in the order in which they came."""
        self._send(self._MARK)
        assert self._marked.acquire(timeout=DEADLINE)
        return [message for message in self._messages if kind in (None, message.type)]

    def ids(self, kind: str) -> list[str]:
        return [message.fields["id"] for message in self.messages(kind)]

    def spawns(self) -> dict[int, list[str]]:
        """The ids announced at forks, by thread, in order."""
        by_thread: dict[int, list[str]] = defaultdict(list)
        for message in self.messages("spawn"):
            by_thread[message.fields["thread"]].append(message.fields["id"])
        return dict(by_thread)

    def _send(self, data: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(data, str(self.path))

    def close(self) -> None:
        self._send(b"")
        self._thread.join(DEADLINE)
        self._socket.close()


@pytest.fixture
def no_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(_wire.SOCKET_VARIABLE, raising=False)


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """Somebody listens.

    The announcements of this process wait for room in the queue, which holds 10 by default: what is lost when
    tracer cannot keep up is tested on its own.
    """
    listener = Listener(tmp_path / "tracer.sock")
    monkeypatch.setenv(_wire.SOCKET_VARIABLE, str(listener.path))
    monkeypatch.delenv(_wire.COOKIE_VARIABLE, raising=False)
    monkeypatch.setattr(_wire, "_KIND", socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    monkeypatch.setattr(_wire, "_FLAGS", 0)
    yield listener
    listener.close()


class Child(NamedTuple):
    """A child process, by its own account, and who started it."""

    call: str  # The call it should belong to.
    cookie: str
    thread: int  # Forked by.


class Children:
    """Starts children and remembers what they said: the truth that announcements are compared with."""

    _SAY = f"echo ${{{_wire.COOKIE_VARIABLE}-none}}"

    def __init__(self) -> None:
        self.all: list[Child] = []
        self._forks: dict[int, list[str]] = defaultdict(list)

    def run(self, call: str) -> str:
        """Starts one from this thread, that should belong to ``call``."""
        thread = self._forking(call)
        said = subprocess.run(["/bin/sh", "-c", self._SAY], stdout=subprocess.PIPE, check=True)
        return self._heard(call, said.stdout, thread)

    async def run_async(self, call: str) -> str:
        """Starts one from the event loop."""
        # Forks before it first suspends, so that the order is the same.
        thread = self._forking(call)
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", self._SAY, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
        return self._heard(call, said, thread)

    def _forking(self, call: str) -> int:
        thread = threading.get_native_id()
        self._forks[thread].append(call)
        return thread

    def _heard(self, call: str, said: bytes, thread: int) -> str:
        cookie = said.decode().strip()
        self.all.append(Child(call, cookie, thread))
        return cookie

    def check(self, listener: Listener) -> None:
        """Every child has the cookie of its call; every thread announced what it forked, in that order."""
        assert [child for child in self.all if child.cookie != child.call] == []
        assert listener.spawns() == self._forks
        assert {message.sender for message in listener.messages()} == {os.getpid()}


@pytest.fixture
def children() -> Children:
    return Children()


def python(script: str, *arguments: str, env: dict[str, str] | None = None) -> str:
    """Runs ``script`` in an interpreter of its own and returns what it printed; it must not complain."""
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        check=False,
        text=True,
        timeout=DEADLINE,
    )
    assert (said.returncode, said.stderr) == (0, "")
    return said.stdout


def in_threads(functions: Sequence[Any]) -> None:
    """Runs all at the same time, each in a thread of its own, and raises what one of them raised."""
    errors: list[BaseException] = []
    together = threading.Barrier(len(functions))

    def run(function: Any) -> None:
        try:
            together.wait(DEADLINE)
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
