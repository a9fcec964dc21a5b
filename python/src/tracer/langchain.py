"""LangChain and LangGraph: their tool calls are tracer's.

The surest is around the tool, where the call's id is known and the context is the tool's:

>>> from langchain.agents import create_agent
>>> from tracer.langchain import TracerMiddleware
>>> agent = create_agent(model, tools, middleware=[TracerMiddleware()])

>>> from langgraph.prebuilt import ToolNode
>>> from tracer.langchain import awrap_tool_call, wrap_tool_call
>>> node = ToolNode(tools, wrap_tool_call=wrap_tool_call, awrap_tool_call=awrap_tool_call)

Everywhere else, also for tools that are invoked by hand, the callback handler:

>>> from tracer.langchain import TracerCallbackHandler
>>> agent.invoke(question, config={"callbacks": [TracerCallbackHandler()]})

And inside of a single tool, with LangGraph's ``ToolRuntime``: see :func:`tool_call`. Several of these
together are one call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable, TypeVar
from weakref import WeakValueDictionary

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import ToolMessage

from . import _calls, _wire

try:
    from langgraph.errors import GraphBubbleUp
except ImportError:  # LangChain without LangGraph.
    GraphBubbleUp = None  # type: ignore[assignment, misc]

if TYPE_CHECKING:
    from uuid import UUID

    from ._langchain_middleware import TracerMiddleware as TracerMiddleware  # noqa: PLC0414 (exported)

__all__ = ["TracerCallbackHandler", "awrap_tool_call", "tool_call", "wrap_tool_call"]

Request = TypeVar("Request")
Result = TypeVar("Result")


def wrap_tool_call(request: Request, execute: Callable[[Request], Result]) -> Result:
    """For ``ToolNode(wrap_tool_call=...)``: runs a tool inside of its call."""
    with _of_request(request) as call:
        try:
            return _judged(call, execute(request))
        except Exception as error:
            _interrupted(call, error)
            raise


async def awrap_tool_call(request: Request, execute: Callable[[Request], Awaitable[Result]]) -> Result:
    """For ``ToolNode(awrap_tool_call=...)``: runs a tool inside of its call."""
    with _of_request(request) as call:
        try:
            return _judged(call, await execute(request))
        except Exception as error:
            _interrupted(call, error)
            raise


def tool_call(name: str, runtime: Any, *, summary: str | None = None) -> _calls.ToolCall:
    """The call that a tool runs in, by the ``ToolRuntime`` that LangGraph injects into it.

    >>> @tool
    ... def shell(command: str, runtime: ToolRuntime) -> str:
    ...     with tracer.langchain.tool_call("shell", runtime, summary=command):
    ...         return subprocess.check_output(command, shell=True, text=True)
    """
    id = getattr(runtime, "tool_call_id", None)
    return _calls.ToolCall(name, id or None, summary=summary, session=_thread_of(runtime))


class TracerCallbackHandler(BaseCallbackHandler):
    """Makes every run of a tool a call: by the id of its tool call, else by its run id.

    There is no callback for a tool that is cancelled: its call ends with the task that it runs in.
    """

    # Else LangChain would run the handler in a thread or a task of its own in asynchronous runs, where
    # nothing could be made current for the tool.
    run_inline = True

    def __init__(self) -> None:
        # A call that ended with its task lives no longer than its context.
        self._open: WeakValueDictionary[UUID, _calls.LooseCall] = WeakValueDictionary()

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Begins the call."""
        with suppress(Exception):
            if _wire.listener() is None:
                return
            name = (serialized or {}).get("name") or kwargs.get("name") or "tool"
            id = kwargs.get("tool_call_id") or str(run_id)
            session = (metadata or {}).get("thread_id")
            call = _calls.LooseCall(name, id, summary=_summary(inputs), session=_text(session))
            self._open[run_id] = call
            call.begin()

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Ends the call."""
        self._end(run_id, "error" if _is_error(output) else "ok")

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Ends the call."""
        interrupted = GraphBubbleUp is not None and isinstance(error, GraphBubbleUp)
        self._end(run_id, "cancelled" if interrupted else _calls.status_of(type(error)))

    def _end(self, run_id: UUID, status: str) -> None:
        with suppress(Exception):
            call = self._open.pop(run_id, None)
            if call is not None:
                call.finish(status)


def _of_request(request: Any) -> _calls.ToolCall:
    """The call of a ``ToolCallRequest``, whose ``tool_call`` is a dictionary."""
    try:
        call = request.tool_call
        return _calls.ToolCall(
            _text(call.get("name")) or "tool",
            _text(call.get("id")),
            summary=_summary(call.get("args")),
            session=_thread_of(getattr(request, "runtime", None)),
        )
    except Exception:
        return _calls.ToolCall("tool")


def _judged(call: _calls.ToolCall, result: Result) -> Result:
    """``result`` as it is."""
    if _is_error(result):
        call.fail()
    return result


def _is_error(result: object) -> bool:
    """Whether it is the message that a tool or a ToolNode makes of an error that it handles."""
    return isinstance(result, ToolMessage) and result.status == "error"


def _interrupted(call: _calls.ToolCall, error: Exception) -> None:
    """The graph stops here to ask somebody, and may go on another time."""
    if GraphBubbleUp is not None and isinstance(error, GraphBubbleUp):
        call.cancel()


def _thread_of(runtime: Any) -> str | None:
    config = getattr(runtime, "config", None)
    configurable = config.get("configurable") if isinstance(config, Mapping) else None
    return _text(configurable.get("thread_id")) if isinstance(configurable, Mapping) else None


def _summary(arguments: Any) -> str | None:
    """The command, where a tool takes one: a line that people know the call by."""
    command = arguments.get("command") if isinstance(arguments, Mapping) else None
    return _text(command)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def __getattr__(name: str) -> Any:
    # Needs the package langchain, which not everybody has who has langchain-core.
    if name == "TracerMiddleware":
        from ._langchain_middleware import TracerMiddleware

        return TracerMiddleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
