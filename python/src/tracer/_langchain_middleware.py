"""The middleware of :mod:`tracer.langchain`, which alone needs the package langchain."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Callable

from langchain.agents.middleware import AgentMiddleware

from . import langchain as _langchain


class TracerMiddleware(AgentMiddleware[Any, Any]):
    """For ``create_agent(middleware=[...])``: runs every tool inside of its call."""

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Runs a tool inside of its call."""
        return _langchain.wrap_tool_call(request, handler)

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Runs a tool inside of its call."""
        return await _langchain.awrap_tool_call(request, handler)
