"""OpenAI Agents SDK: its tool calls are tracer's.

>>> from agents import Runner
>>> from tracer.openai_agents import TracerHooks
>>> await Runner.run(agent, "build it", hooks=TracerHooks())

Hooks of your own go inside: ``TracerHooks(MyHooks())``. To trace a single agent,
``Agent(hooks=TracerAgentHooks())``.

The SDK *calls* its hooks in the task that will start the tool, but *awaits* them in tasks of their own, and
what those make current is gone when the tool runs. So here the hooks are no coroutine functions: they do
their work when called. For the same reason they must not be called from a coroutine that overrides them.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from agents import AgentHooks, FunctionTool, RunHooks

from . import _calls, _wire

__all__ = ["TracerAgentHooks", "TracerHooks"]


class _ToolHooks:
    """The two hooks about tools, and all others as the hooks inside have them."""

    def __init__(self, hooks: Any = None) -> None:
        self._inside = hooks
        for name in dir(hooks):
            if name.startswith("on_") and name not in ("on_tool_start", "on_tool_end"):
                setattr(self, name, getattr(hooks, name))

    def on_tool_start(self, context: Any, agent: Any, tool: Any) -> Coroutine[Any, Any, None]:
        """Begins the call, in the task that is about to run the tool."""
        with suppress(Exception):
            if _wire.listener() is not None:
                _begin(context, tool)
        return _nothing() if self._inside is None else self._inside.on_tool_start(context, agent, tool)

    def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> Coroutine[Any, Any, None]:
        """Ends the call."""
        with suppress(Exception):
            _end(context, tool)
        return _nothing() if self._inside is None else self._inside.on_tool_end(context, agent, tool, result)


class TracerHooks(_ToolHooks, RunHooks[Any]):
    """Run hooks under which every run of a tool is a call. Other run hooks can be given to it."""


class TracerAgentHooks(_ToolHooks, AgentHooks[Any]):
    """The same for a single agent. Other agent hooks can be given to it."""


async def _nothing() -> None:
    pass


def _begin(context: Any, tool: Any) -> None:
    name = getattr(context, "tool_name", None) or getattr(tool, "name", None) or "tool"
    # Tools that are no functions have a context without the call's id.
    _calls.LooseCall(name, getattr(context, "tool_call_id", None)).begin()


def _end(context: Any, tool: Any) -> None:
    call = _calls.LooseCall.innermost()
    id = getattr(context, "tool_call_id", None)
    if call is None or (id and call.id != _wire.usable_id(id)):
        # Begun when nobody listened.
        return
    if call.finish("ok") and not isinstance(tool, FunctionTool):
        # Begun in a task that runs on, and left in another.
        call._forgotten = True
