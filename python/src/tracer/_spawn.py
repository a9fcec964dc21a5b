"""What happens where a process is spawned: the announcement just before, and the cookie.

Nothing here exists until a call begins while somebody listens. Then, once per process:

- an audit hook announces ``spawn`` from the thread that is about to fork;
- ``subprocess.Popen`` gives the child a copy of its environment with the cookie in it, because a hook cannot
  change what is passed, and ``os.environ`` is shared by calls that run at the same time;
- ``Thread.start`` and ``ThreadPoolExecutor.submit`` carry the current call over, as asyncio does by itself;
- what forks without an audit event (the spawn method of multiprocessing, uvloop) is announced as well.

A hook cannot be removed again: it costs one set lookup an audit event, and nothing is announced outside
of calls.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import wraps
from typing import Any, Callable

from . import _calls, _wire

# Raised by the thread that forks, before it does. `os.spawn*`, `os.popen`, `pty` and multiprocessing's fork
# end in one of them.
FORKS = frozenset({"os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"})

# Processes of multiprocessing that serve all calls of this process: they belong to none.
SHARED = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")

_ENV_POSITION = 10  # Of `env` among the parameters of Popen, from 3.9 to 3.14.


class _State:
    """What has been installed in this process."""

    environment = True
    threads = True
    begun = False
    done = False
    uvloop = False
    # Whoever comes second waits; reentrant, for a signal handler that begins a call.
    lock = threading.RLock()


def _after_fork() -> None:
    # Another thread may have held it.
    _State.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def install(*, environment: bool | None = None, threads: bool | None = None) -> None:
    """Sets up, now or as soon as somebody listens, what the first call would set up by itself.

    ``environment=False`` leaves ``subprocess.Popen`` alone: no cookie, and announcements only.
    ``threads=False`` leaves ``Thread.start`` and ``ThreadPoolExecutor.submit`` alone: see
    :func:`tracer.bound`. To have an effect they must be given before the first call begins.
    """
    if environment is not None:
        _State.environment = environment
    if threads is not None:
        _State.threads = threads
    with suppress(Exception):
        if _wire.listener() is not None:
            _install()


def _install() -> None:
    uvloop = sys.modules.get("uvloop")
    if _State.done and (_State.uvloop or uvloop is None):
        return
    with _State.lock:
        if not _State.begun:
            # Not twice, whatever goes wrong.
            _State.begun = True
            try:
                sys.addaudithook(_on_audit_event)
                _patch_multiprocessing()
                if _State.environment:
                    _patch_popen()
                if _State.threads:
                    _patch_threads()
            finally:
                _State.done = True
        # Or it is just being imported.
        if hasattr(uvloop, "Loop") and not _State.uvloop:
            _State.uvloop = True
            _patch_uvloop(uvloop)


def _on_audit_event(event: str, _: tuple[Any, ...]) -> None:
    if event in FORKS:
        # An exception would keep the process from being spawned.
        with suppress(Exception):
            if event != "os.posix_spawn" or not _said_by_popen():
                announce()


def _said_by_popen() -> bool:
    # Popen raises its own event first, and then spawns in one of two ways.
    return bool(sys._getframe(2).f_globals.get("__name__") == "subprocess")


def announce() -> None:
    """Announces that the next fork of this thread is the current call's, if there is one."""
    call = _calls.current()
    # Elsewhere begun, it is another process's call: the cookie says so, and lineage.
    if call is not None and call._began_here:
        call._send("spawn", thread=threading.get_native_id())


def with_cookie(env: Any) -> Any:
    """The environment for a child of the current call, a copy; ``env`` itself where nothing is to be added.

    ``env`` is as ``subprocess.Popen`` takes it: None is this process's own. A cookie in it that this process
    did not inherit was put there on purpose and stays.
    """
    try:
        call = _calls.current()
        if call is None:
            return env
        if env is None:
            return {**os.environ, **_wire.cookie(call.id)}
        if not isinstance(env, Mapping):
            return env
        copy = dict(env.items())
        # The keys may be text or bytes, in one mapping.
        own = [copy.pop(key, None) for key in (_wire.COOKIE_VARIABLE, os.fsencode(_wire.COOKIE_VARIABLE))]
        inherited = os.environ.get(_wire.COOKIE_VARIABLE)
        if any(value is not None and os.fsdecode(value) != inherited for value in own):
            return env
        return {**copy, **_wire.cookie(call.id)}
    except Exception:
        # Whatever is wrong with it is for the one who spawns to say.
        return env


def _patch_popen() -> None:
    import subprocess

    original = subprocess.Popen.__init__

    @wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if len(args) > _ENV_POSITION:
            args = (*args[:_ENV_POSITION], with_cookie(args[_ENV_POSITION]), *args[_ENV_POSITION + 1 :])
        else:
            env = with_cookie(kwargs.get("env"))
            if env is not None:
                kwargs["env"] = env
        original(self, *args, **kwargs)

    subprocess.Popen.__init__ = init  # type: ignore[method-assign]


def _patch_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    start = threading.Thread.start
    submit: Callable[..., Any] = ThreadPoolExecutor.submit

    @wraps(start)
    def start_in_call(self: threading.Thread) -> None:
        if _calls.current() is None:
            return start(self)
        own = vars(self).get("run")
        run = _calls.carried(self.run)

        def restore() -> None:
            if own is None:
                vars(self).pop("run", None)
            else:
                vars(self)["run"] = own

        def run_once() -> None:
            # Here, so that no thread keeps a reference to itself.
            restore()
            run()

        vars(self)["run"] = run_once
        try:
            start(self)
        except BaseException:
            restore()
            raise

    @wraps(submit)
    def submit_in_call(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if any(kind.__name__ == "InterpreterPoolExecutor" for kind in type(self).__mro__):
            # Pickles the work for another interpreter.
            return submit(self, fn, *args, **kwargs)
        work = _calls.carried(fn)
        # A thread that the pool starts now serves later calls as well.
        with _calls.outside_calls():
            return submit(self, work, *args, **kwargs)

    threading.Thread.start = start_in_call  # type: ignore[method-assign]
    ThreadPoolExecutor.submit = submit_in_call  # type: ignore[method-assign]


def _patch_multiprocessing() -> None:
    import multiprocessing.util

    util: Any = multiprocessing.util
    # Calls _posixsubprocess.fork_exec, which raises no audit event (3.9 to 3.14).
    original: Callable[..., int] | None = getattr(util, "spawnv_passfds", None)
    if original is None:
        return

    @wraps(original)
    def spawnv_passfds(path: Any, args: Sequence[Any], *rest: Any) -> int:
        with suppress(Exception):
            if not any(name in os.fsdecode(arg) for arg in args for name in SHARED):
                announce()
        return original(path, args, *rest)

    util.spawnv_passfds = spawnv_passfds


def _patch_uvloop(uvloop: Any) -> None:
    # Its loop forks in libuv: no audit event, no Popen. Both methods spawn before they first suspend, so
    # the thread forks for nobody else in between.
    for name in ("subprocess_exec", "subprocess_shell"):
        original = getattr(uvloop.Loop, name)

        @wraps(original)
        async def spawn(self: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            env = with_cookie(kwargs.get("env"))
            if env is not None:
                kwargs["env"] = env
            with suppress(Exception):
                announce()
            return await _original(self, *args, **kwargs)

        setattr(uvloop.Loop, name, spawn)
