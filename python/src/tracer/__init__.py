"""Tells tracer which tool call is which, from inside of a Python agent.

>>> import subprocess, tracer
>>> with tracer.tool_call("build", id="call_1"):
...     subprocess.run(["make"])

Everything that the block spawns, in asyncio tasks, threads and pools too, is announced as this call's by
the thread that forks, and carries the call's id in its environment. Adapters for frameworks:
``tracer.langchain``, ``tracer.openai_agents``, ``tracer.otel``.

Without tracer (``TRACER_SOCKET`` is not set) all of it does nothing.
"""

from ._calls import (
    ToolCall,
    active,
    background,
    bound,
    current,
    environment,
    keep,
    outside_calls,
    tool_call,
)
from ._spawn import install

__all__ = [
    "ToolCall",
    "active",
    "background",
    "bound",
    "current",
    "environment",
    "install",
    "keep",
    "outside_calls",
    "tool_call",
]
