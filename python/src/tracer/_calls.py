"""Tool calls, and which of them is current where.

A call is current in a *context* (:mod:`contextvars`): each asyncio task and each thread has its own, so
calls that overlap in time do not mix. What spawns a process asks :func:`current` in the thread that is
about to fork.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import math
import os
from contextlib import suppress
from contextvars import ContextVar, Token
from functools import update_wrapper, wraps
from types import TracebackType
from typing import Any, Callable, NamedTuple, TypeVar, cast

from . import _spawn, _wire

F = TypeVar("F", bound=Callable[..., Any])


class Scope(NamedTuple):
    """A call, or that there is none, as it holds in a context."""

    call: ToolCall | None
    begun: int  # Its place in the order of all scopes of this process.
    pid: int  # A fork copies the context: in the child the scope is the parent's and counts no more.
    outer: Scope | None  # What held before, and nothing before that: tasks that start tasks make no chain.


_scope: ContextVar[Scope | None] = ContextVar("tracer_scope", default=None)
_order = itertools.count()

# Set by tracer.otel: the scope of the span that is current.
span_scope: Callable[[], Scope | None] | None = None


def new_scope(call: ToolCall | None) -> Scope:
    """A scope that holds from now on, innermost of all so far."""
    outer = _valid(_scope.get())
    return Scope(call, next(_order), os.getpid(), None if outer is None else outer._replace(outer=None))


def current() -> ToolCall | None:
    """The call that is current here: what this thread spawns now belongs to it.

    Of an open ``tool_call`` and a tool's OpenTelemetry span the one that began later.
    """
    scope = _valid(_scope.get())
    if span_scope is not None:
        by_span = _valid(span_scope())
        if by_span is not None and (scope is None or by_span.begun > scope.begun):
            scope = by_span
    return None if scope is None else scope.call


def _valid(scope: Scope | None) -> Scope | None:
    """The innermost from ``scope`` outwards that still holds."""
    while scope is not None and scope.call is not None and scope.call._forgotten:
        scope = scope.outer
    return None if scope is None or scope.pid != os.getpid() else scope


class ToolCall:
    """One call of the tool ``name``: everything that is spawned inside of the block belongs to it.

    >>> with tool_call("build", id="call_1"):
    ...     subprocess.run(["make"])

    Entering, by ``with`` or ``async with``, announces its start and makes it current, leaving announces
    its end: ``error`` if an exception passes, ``cancelled`` if that is a cancellation. Nothing of it raises,
    blocks or changes ``os.environ``, and without a listener it does nothing. As a decorator of a function or
    coroutine function it makes every invocation a call of its own, with an id of its own. Entered where the
    call with its id is current already, it adds what it knows to that and leaves the end to it.

    ``id`` is the call's id as the model gave it, unique within the agent's run; left out, one is made.
    ``summary`` is a line for people. ``command`` is the whole text of a shell command as it will stand in the
    shell's arguments. ``background`` says that what the call leaves is meant to run on: True, or the agent's
    own id of the background task. ``agent`` names the agent where that is not this process, ``session`` its
    session, ``span`` the call's OpenTelemetry span (16 hexadecimal digits).
    """

    __slots__ = (
        "_background",
        "_forgotten",
        "_id",
        "_joins",
        "_path",
        "_pid",
        "_status",
        "_tokens",
        "agent",
        "command",
        "name",
        "session",
        "span",
        "summary",
    )

    def __init__(
        self,
        name: str,
        id: str | None = None,
        *,
        summary: str | None = None,
        command: str | None = None,
        background: bool | str = False,
        agent: str | None = None,
        session: str | None = None,
        span: str | None = None,
    ) -> None:
        self.name = name
        self.summary = summary
        self.command = command
        self.agent = agent
        self.session = session
        self.span = span
        self._forgotten = False  # No context takes it for current any more.
        self._background = background
        self._id = id
        self._joins = False
        self._path: str | None = None
        self._pid = 0
        self._status: str | None = None
        self._tokens: list[Token[Scope | None]] = []

    @property
    def id(self) -> str:
        """The id that is announced: the one given where that can be one (1 to 128 bytes), else one made."""
        if self._id is None:
            self._id = f"call_{os.urandom(8).hex()}"
        return self._id

    def __enter__(self) -> ToolCall:
        path = _wire.listener()
        if path is not None:
            self._start(path)
            self._tokens.append(_scope.set(new_scope(self)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._tokens:
            self._leave()
            if not self._tokens:
                self._end(status_of(kind))

    async def __aenter__(self) -> ToolCall:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: F) -> F:
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def in_call_async(*args: Any, **kwargs: Any) -> Any:
                with self._again():
                    return await function(*args, **kwargs)

            return cast("F", in_call_async)

        @wraps(function)
        def in_call(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return function(*args, **kwargs)

        return cast("F", in_call)

    def fail(self) -> None:
        """Makes the call end as ``error`` though no exception leaves it."""
        self._status = "error"

    def cancel(self) -> None:
        """Makes the call end as ``cancelled`` whatever leaves it."""
        self._status = "cancelled"

    def background(self, reason: str | None = None) -> None:
        """Says that what this call leaves is meant to run on, and why."""
        self._send("background", reason=reason)

    def keep(self, ttl: float, reason: str) -> None:
        """Asks tracer to keep what this call started for ``ttl`` seconds, and to list it with ``reason``."""
        seconds = _seconds(ttl)
        if seconds is not None:
            self._send("keep", ttl=seconds, reason=reason)

    # What follows is for this package: its adapters begin and end calls that no block encloses.

    def _start(self, path: str) -> None:
        """Announces the start to the listener at ``path``."""
        _spawn.install()
        try:
            self._id = _wire.usable_id(str(self.id))
        except Exception:
            self._id = None
        outer = current()
        self._joins = outer is not None and outer.id == self._id
        self._path = path
        self._pid = os.getpid()
        self._send(
            "call_start",
            name=self.name,
            summary=self.summary,
            command=self.command,
            span=self.span,
            background=self._background or None,
        )

    def _end(self, status: str) -> None:
        """Announces the end. Not in a forked child, which leaves its copy of a call that goes on."""
        if self._pid == os.getpid() and not self._joins:
            status = self._status or status
            self._send("call_end", status=None if status == "ok" else status)

    def _leave(self) -> None:
        """Makes current again what was before this call was entered."""
        token = self._tokens.pop()
        try:
            _scope.reset(token)
        except ValueError:
            # Left in another context than entered: a generator, or a callback. There this call may be
            # current all the same, by copy.
            scope = _scope.get()
            if scope is not None and scope.call is self:
                _scope.set(scope.outer)

    def _send(self, kind: str, **fields: object) -> None:
        """Sends a message about this call, if somebody listened when it began."""
        if self._path is None:
            return
        pid = self._pid if self._pid != os.getpid() else None
        message = {"type": kind, "id": self.id, "agent": self.agent, "session": self.session, "pid": pid}
        _wire.send(self._path, {**message, **fields})

    @property
    def _began_here(self) -> bool:
        """Whether this process announced it, and may announce forks for it."""
        return self._path is not None and self._pid == os.getpid()

    def _again(self) -> ToolCall:
        return ToolCall(
            self.name,
            summary=self.summary,
            command=self.command,
            background=self._background,
            agent=self.agent,
            session=self.session,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels to another process as what that can know of it: an id, whose it is, and who listens."""
        return _elsewhere, (self.name, self.id, self.agent, self.session, self._path, self._pid)


def _elsewhere(
    name: str, id: str, agent: str | None, session: str | None, path: str | None, pid: int
) -> ToolCall:
    call = ToolCall(name, id, agent=agent, session=session)
    call._path = path
    call._pid = pid
    return call


def status_of(kind: type[BaseException] | None) -> str:
    """How a call ended that an exception of ``kind`` left, or none."""
    if kind is None:
        return "ok"
    # CancelledError, KeyboardInterrupt, GeneratorExit and their like in other event loops.
    return "error" if issubclass(kind, (Exception, SystemExit)) else "cancelled"


class LooseCall(ToolCall):
    """A call that hooks begin and end: once, and at the latest with the task that it began in.

    For frameworks that do not tell of a tool that was cancelled.
    """

    __slots__ = ("__weakref__", "_open", "_task")

    _open: bool
    _task: asyncio.Task[Any] | None

    def begin(self) -> None:
        """Announces the start and makes it current. To be called where somebody listens."""
        self.__enter__()
        self._open = True
        try:
            self._task = asyncio.current_task()
        except RuntimeError:  # No event loop runs in this thread.
            self._task = None
        if self._task is not None:
            self._task.add_done_callback(self._over)

    @staticmethod
    def innermost() -> LooseCall | None:
        """The one that was begun in this context, or in the one that it is a copy of."""
        scope = _scope.get()
        return scope.call if scope is not None and isinstance(scope.call, LooseCall) else None

    def finish(self, status: str) -> bool:
        """Announces the end and makes current again what was before. False if it had ended."""
        if not self._open:
            return False
        self._open = False
        if self._task is not None:
            self._task.remove_done_callback(self._over)
        if self._tokens:
            self._leave()
            self._end(status)
        return True

    def _over(self, task: asyncio.Task[Any]) -> None:
        failed = not task.cancelled() and task.exception() is not None
        self.finish("error" if failed else "cancelled")


class Bound:
    """A function that runs in the call that was current when it was bound, or in none if none was.

    It can be pickled where the function can.
    """

    def __init__(self, function: Callable[..., Any], scope: Scope) -> None:
        self._function = function
        self._bound_to = scope

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        scope = self._bound_to
        if scope.pid != os.getpid():
            # Travelled to another process, which knows the call by its id.
            _spawn.install()
            scope = new_scope(scope.call)
        token = _scope.set(scope)
        try:
            return self._function(*args, **kwargs)
        finally:
            _scope.reset(token)

    def __reduce__(self) -> tuple[Any, ...]:
        return Bound, (self._function, Scope(self._bound_to.call, 0, 0, None))


def carried(function: Callable[..., Any]) -> Bound:
    """``function``, bound to what is current now."""
    return Bound(function, new_scope(current()))


class Outside:
    """A block in which no call is current. See :func:`outside_calls`."""

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens: list[Token[Scope | None]] = []

    def __enter__(self) -> None:
        self._tokens.append(_scope.set(new_scope(None)))

    def __exit__(self, *_: object) -> None:
        with suppress(ValueError):  # Left in another context than entered.
            _scope.reset(self._tokens.pop())


# The name for users: the class itself, so that a call without a listener costs one function call less.
tool_call = ToolCall


def background(reason: str | None = None) -> None:
    """Says that what the current call leaves is meant to run on. Outside of a call it does nothing."""
    call = current()
    if call is not None:
        call.background(reason)


def keep(ttl: float, reason: str, process: int | None = None) -> None:
    """A lease: ``process`` (a pid), else what the current call started, is kept for ``ttl`` seconds.

    tracer lists it with ``reason`` and counts it as no leak. Without ``process`` it does nothing outside
    of a call.
    """
    if process is None:
        call = current()
        if call is not None:
            call.keep(ttl, reason)
        return
    path, seconds = _wire.listener(), _seconds(ttl)
    if path is not None and seconds is not None:
        _wire.send(path, {"type": "keep", "ttl": seconds, "reason": reason, "process": process})


def bound(function: F) -> F:
    """``function``, to be run elsewhere as part of the call that is current now.

    For queues and pools that hand work to threads or processes of their own. Not needed for asyncio,
    ``threading.Thread`` and ``ThreadPoolExecutor``. The result can be pickled where ``function`` can.
    """
    if _wire.listener() is None:
        return function
    _spawn.install()
    if not inspect.iscoroutinefunction(function):
        return cast("F", update_wrapper(carried(function), function, updated=()))
    scope = new_scope(current())

    @wraps(function)
    async def in_scope(*args: Any, **kwargs: Any) -> Any:
        token = _scope.set(scope)
        try:
            return await function(*args, **kwargs)
        finally:
            _scope.reset(token)

    return cast("F", in_scope)


def outside_calls() -> Outside:
    """A block in which no call is current: to start what serves many calls, a worker, a server, a shell."""
    return Outside()


def environment() -> dict[str, str]:
    """The cookie of the current call as an environment, empty outside of a call.

    For what is started in other ways than by this process: ``docker exec --env``, a remote shell, a job.
    """
    call = current()
    return {} if call is None else _wire.cookie(call.id)


def active() -> bool:
    """Whether ``TRACER_SOCKET`` names a listener, so that announcements are made."""
    return _wire.listener() is not None


def _seconds(ttl: float) -> int | None:
    """Whole seconds, rounded up; None for what is no duration."""
    try:
        return math.ceil(ttl) if ttl > 0 else None
    except (TypeError, ValueError, OverflowError):
        return None
