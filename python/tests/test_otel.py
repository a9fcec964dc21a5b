"""The span processor, in the real OpenTelemetry SDK."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

import tracer
from conftest import DEADLINE, Children, Listener, in_threads, python

pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")

from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider

from tracer import _calls, otel
from tracer.otel import TracerSpanProcessor

CALLS = [f"call_{number}" for number in range(16)]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> trace.Tracer:
    monkeypatch.setattr(_calls, "span_scope", None)
    monkeypatch.setattr(otel, "_open", {})
    monkeypatch.setattr(otel, "_ended", {})
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(TracerSpanProcessor())
    return provider.get_tracer("test")


def attributes(id: str, name: str = "shell") -> dict[str, str]:
    return {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": name,
        "gen_ai.tool.call.id": id,
    }


def test_span_of_a_tool_is_a_call(listener: Listener, children: Children, spans: trace.Tracer) -> None:
    told = {**attributes("call_1"), "gen_ai.conversation.id": "session-1"}
    with spans.start_as_current_span("execute_tool shell", attributes=told) as span:
        children.run("call_1")
    children.check(listener)
    start, _, end = listener.messages()
    assert (start.type, end.type) == ("call_start", "call_end")
    del start.fields["at"]
    assert start.fields == {
        "v": 1,
        "type": "call_start",
        "id": "call_1",
        "name": "shell",
        "session": "session-1",
        "span": format(span.get_span_context().span_id, "016x"),
    }
    assert (end.fields["id"], end.fields.get("status")) == ("call_1", None)


@pytest.mark.parametrize(
    ("name", "known", "call", "tool"),
    [
        ("execute_tool shell", {}, None, "shell"),
        ("execute_tool", {}, None, "execute_tool"),
        ("running a tool", attributes("call_1"), "call_1", "shell"),
        ("execute_tool shell", {"gen_ai.tool.call.id": "call_2"}, "call_2", "shell"),
        ("execute_tool shell", {"gen_ai.tool.call.id": 7}, None, "shell"),
    ],
)
def test_span_is_known_by_its_name_or_attributes(
    listener: Listener, spans: trace.Tracer, name: str, known: dict[str, Any], call: str | None, tool: str
) -> None:
    with spans.start_as_current_span(name, attributes=known) as span:
        id = tracer.environment()["TRACER_TOOL_CALL_ID"]
    assert id == call or format(span.get_span_context().span_id, "016x")
    (start,) = listener.messages("call_start")
    assert (start.fields["id"], start.fields["name"]) == (id, tool)


@pytest.mark.parametrize("name", ["chat gpt", "execute_tools", "invoke_agent", ""])
def test_other_spans_are_no_calls(listener: Listener, spans: trace.Tracer, name: str) -> None:
    with spans.start_as_current_span(name):
        assert tracer.current() is None
    assert listener.messages() == []


def test_name_that_comes_late_is_told_before_the_end(listener: Listener, spans: trace.Tracer) -> None:
    with spans.start_as_current_span("execute_tool x") as span:
        span.set_attribute("gen_ai.tool.name", "shell")
    told = [(message.type, message.fields.get("name")) for message in listener.messages()]
    assert told == [("call_start", "x"), ("call_start", "shell"), ("call_end", None)]


def test_spans_below_a_tool_belong_to_its_call(
    listener: Listener, children: Children, spans: trace.Tracer
) -> None:
    with spans.start_as_current_span("invoke_agent"):
        with spans.start_as_current_span("execute_tool shell", attributes=attributes("call_1")):
            with spans.start_as_current_span("subprocess"), spans.start_as_current_span("run"):
                children.run("call_1")
            children.run("call_1")
        assert tracer.current() is None
        with spans.start_as_current_span("execute_tool shell", attributes=attributes("call_2")):
            children.run("call_2")
    children.check(listener)


def test_calls_in_parallel_threads(listener: Listener, children: Children, spans: trace.Tracer) -> None:
    def call(id: str) -> None:
        with spans.start_as_current_span("execute_tool shell", attributes=attributes(id)):
            children.run(id)
            with spans.start_as_current_span("inside"):
                children.run(id)

    in_threads([partial(call, id) for id in CALLS])
    assert len(children.all) == 32
    children.check(listener)


def test_calls_in_parallel_tasks(listener: Listener, children: Children, spans: trace.Tracer) -> None:
    async def call(id: str, pool: ThreadPoolExecutor) -> None:
        with spans.start_as_current_span("execute_tool shell", attributes=attributes(id)):
            await children.run_async(id)
            await asyncio.to_thread(children.run, id)
            # Neither carries a context over; the executor is made to carry the call.
            await asyncio.get_running_loop().run_in_executor(pool, children.run, id)

    async def agent() -> None:
        with ThreadPoolExecutor(2) as pool:
            await asyncio.gather(*[call(id, pool) for id in CALLS])

    asyncio.run(agent())
    assert len(children.all) == 48
    children.check(listener)


def test_innermost_of_span_and_block_counts(
    listener: Listener, children: Children, spans: trace.Tracer
) -> None:
    with tracer.tool_call("outer", id="block_1"):
        with spans.start_as_current_span("execute_tool shell", attributes=attributes("span_1")):
            children.run("span_1")
            with tracer.tool_call("inner", id="block_2"):
                children.run("block_2")
                with spans.start_as_current_span("inside"):
                    children.run("block_2")
            children.run("span_1")
            with tracer.outside_calls():
                assert tracer.current() is None
        children.run("block_1")
    children.check(listener)


def test_span_of_a_call_that_is_announced_already_adds_to_it(
    listener: Listener, children: Children, spans: trace.Tracer
) -> None:
    with tracer.tool_call("shell", id="call_1"):
        with spans.start_as_current_span("execute_tool shell", attributes=attributes("call_1")):
            children.run("call_1")
        children.run("call_1")
    children.check(listener)
    assert [message.type for message in listener.messages() if message.type != "spawn"] == [
        "call_start",
        "call_start",
        "call_end",
    ]
    assert "span" in listener.messages("call_start")[1].fields


@pytest.mark.parametrize(
    ("error", "status"), [(None, None), (ValueError("no"), "error"), (TimeoutError(), "error")]
)
def test_status_of_the_span_is_the_calls(
    listener: Listener, spans: trace.Tracer, error: Exception | None, status: str | None
) -> None:
    def call() -> None:
        with spans.start_as_current_span("execute_tool shell", attributes=attributes("call_1")):
            if error is not None:
                raise error

    if error is None:
        call()
    else:
        with pytest.raises(type(error)):
            call()
    (end,) = listener.messages("call_end")
    assert end.fields.get("status") == status


def test_cancelled_span_is_a_cancelled_call(listener: Listener, spans: trace.Tracer) -> None:
    span = spans.start_span("execute_tool shell", attributes=attributes("call_1"))
    span.set_attribute("error.type", "asyncio.CancelledError")
    span.set_status(trace.StatusCode.ERROR)
    span.end()
    (end,) = listener.messages("call_end")
    assert end.fields["status"] == "cancelled"


def test_span_that_is_not_current_is_nobodys(
    listener: Listener, spans: trace.Tracer, children: Children
) -> None:
    first = spans.start_span("execute_tool shell", attributes=attributes("call_1"))
    second = spans.start_span("execute_tool shell", attributes=attributes("call_2"))
    assert tracer.current() is None
    with trace.use_span(first):
        children.run("call_1")
    with trace.use_span(second):
        children.run("call_2")
    second.end()
    first.end()
    children.check(listener)
    assert listener.ids("call_end") == ["call_2", "call_1"]


def test_what_a_call_left_behind_stays_its_own(
    listener: Listener, spans: trace.Tracer, children: Children
) -> None:
    with spans.start_as_current_span("execute_tool shell", attributes=attributes("call_1")):
        left = contextvars.copy_context()
    with spans.start_as_current_span("execute_tool shell", attributes=attributes("call_2")):
        left.run(children.run, "call_1")
        children.run("call_2")
    children.check(listener)


def test_spans_that_never_end_are_forgotten_some_time(
    listener: Listener, spans: trace.Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otel, "_MAX_OPEN", 3)
    monkeypatch.setattr(otel, "_MAX_ENDED", 2)
    started = [spans.start_span("execute_tool shell", attributes=attributes(id)) for id in CALLS]
    assert len(otel._open) == 3
    for span in started:
        span.end()
    assert (len(otel._open), len(otel._ended)) == (0, 2)
    assert listener.ids("call_end") == CALLS[-3:]


def test_spans_cost_nothing_without_a_listener(no_listener: None, spans: trace.Tracer) -> None:
    with spans.start_as_current_span("execute_tool shell", attributes=attributes("call_1")):
        assert tracer.current() is None
    assert not otel._open
    assert not otel._ended


def test_span_in_another_context_is_not_taken_for_current(listener: Listener, spans: trace.Tracer) -> None:
    span = spans.start_span("execute_tool shell", attributes=attributes("call_1"))
    elsewhere = trace.set_span_in_context(span)
    assert tracer.current() is None
    token = context.attach(elsewhere)
    assert tracer.environment() == {"TRACER_TOOL_CALL_ID": "call_1"}
    context.detach(token)
    span.end()


def test_processor_has_nothing_to_flush() -> None:
    processor = TracerSpanProcessor()
    assert processor.force_flush(int(DEADLINE))
    processor.shutdown()


def test_opentelemetry_is_not_imported_with_the_package() -> None:
    assert python("import sys, tracer; print('opentelemetry' in sys.modules)") == "False\n"
