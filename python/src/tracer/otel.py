"""OpenTelemetry: every span of a tool's execution is a tool call.

>>> from opentelemetry.sdk.trace import TracerProvider
>>> from tracer.otel import TracerSpanProcessor
>>> provider = TracerProvider()
>>> provider.add_span_processor(TracerSpanProcessor())

A span is one if its name begins with ``execute_tool`` or its ``gen_ai.operation.name`` is that, as the
semantic conventions for generative AI have it. ``gen_ai.tool.name`` and ``gen_ai.tool.call.id`` are the
call's name and id; where a span starts without an id, its span id is the call's.

A span processor runs before the span is current, and whatever it set in the context would be gone with
the return. So nothing is set: what spawns a process asks which span is current there, in its own context.
Needs spans that are made current (not only recorded) and sampled.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from . import _calls, _wire

if TYPE_CHECKING:
    from opentelemetry.context import Context

OPERATION = "execute_tool"

# By span id: of a tool's span and of all spans below it, which their instrumentation makes current instead.
_open: dict[int, _calls.Scope] = {}
# A task that the call left behind may still have its span current.
_ended: dict[int, _calls.Scope] = {}
_MAX_OPEN = 16_384  # A span that never ends is forgotten some time.
_MAX_ENDED = 1_024


class TracerSpanProcessor(SpanProcessor):
    """Announces tool calls by their spans. Exports nothing."""

    def __init__(self) -> None:
        _calls.span_scope = _current_scope

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Announces the call, if it is a tool's span, and remembers whose the span is."""
        with suppress(Exception):
            path = _wire.listener()
            if path is not None:
                _start(span, path)

    def on_end(self, span: ReadableSpan) -> None:
        """Announces the end of the call."""
        with suppress(Exception):
            if _open:
                _end(span)

    def shutdown(self) -> None:
        """Nothing is pending, ever."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is pending, ever."""
        return True


def _current_scope() -> _calls.Scope | None:
    try:
        id = trace.get_current_span().get_span_context().span_id
    except Exception:
        return None
    return _open.get(id) or _ended.get(id)


def _start(span: Span, path: str) -> None:
    context = span.get_span_context()
    if context is None:
        return
    if _is_tool(span):
        call = _calls.ToolCall(
            _attribute(span, "gen_ai.tool.name") or _name_in(span),
            _attribute(span, "gen_ai.tool.call.id") or trace.format_span_id(context.span_id),
            session=_attribute(span, "gen_ai.conversation.id"),
            span=trace.format_span_id(context.span_id),
        )
        call._start(path)
        scope: _calls.Scope | None = _calls.new_scope(call)
    else:
        scope = None if span.parent is None else _open.get(span.parent.span_id)
    if scope is not None:
        _put(_open, _MAX_OPEN, context.span_id, scope)


def _end(span: ReadableSpan) -> None:
    context = span.get_span_context()
    scope = None if context is None else _open.pop(context.span_id, None)
    if context is None or scope is None:
        return
    _put(_ended, _MAX_ENDED, context.span_id, scope)
    call = scope.call
    if call is None or call.span != trace.format_span_id(context.span_id) or scope.pid != os.getpid():
        return
    name = _attribute(span, "gen_ai.tool.name")
    if name is not None and name != call.name:
        # Set after the span began.
        call._send("call_start", name=name)
    call._end(_status(span))


def _is_tool(span: ReadableSpan) -> bool:
    first, _, _ = span.name.partition(" ")
    return OPERATION in (first, _attribute(span, "gen_ai.operation.name"))


def _name_in(span: ReadableSpan) -> str:
    first, _, rest = span.name.partition(" ")
    return rest if first == OPERATION and rest else span.name


def _attribute(span: ReadableSpan, name: str) -> str | None:
    value = (span.attributes or {}).get(name)
    return value if isinstance(value, str) and value else None


def _status(span: ReadableSpan) -> str:
    if span.status.status_code is not trace.StatusCode.ERROR:
        return "ok"
    kind = _attribute(span, "error.type") or ""
    return "cancelled" if kind.rpartition(".")[2] in ("CancelledError", "Cancelled") else "error"


def _put(scopes: dict[int, _calls.Scope], most: int, id: int, scope: _calls.Scope) -> None:
    # Each step is atomic by itself, so no lock is there to be held over a fork.
    scopes[id] = scope
    while len(scopes) > most:
        scopes.pop(next(iter(scopes)), None)
