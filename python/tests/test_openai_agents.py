"""The adapter for the OpenAI Agents SDK, in the real one: a model that says what it is told, no network."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

import tracer
from conftest import Children, Listener, python

pytest.importorskip("agents", reason="openai-agents is not installed")

import agents
from agents import Agent, AgentHooks, FunctionTool, RunHooks, Runner, function_tool
from agents.items import ModelResponse
from agents.models.interface import Model
from agents.usage import Usage
from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)

from tracer.openai_agents import TracerAgentHooks, TracerHooks

CALLS = [f"call_{number}" for number in range(16)]


@pytest.fixture(autouse=True, params=[False, True], ids=["untraced", "traced"])
def _tracing(request: pytest.FixtureRequest) -> Iterator[None]:
    """With the SDK's own tracing, which exports to nobody here, and without."""
    agents.set_trace_processors([])
    agents.set_tracing_disabled(not request.param)
    yield
    agents.set_tracing_disabled(True)


class Script(Model):
    """A model that makes these calls, a turn each, and then is done."""

    def __init__(self, *turns: list[Any]) -> None:
        done = ResponseOutputText(type="output_text", text="done", annotations=[])
        message = ResponseOutputMessage(
            id="m", type="message", role="assistant", status="completed", content=[done]
        )
        self._turns = [*turns, [message]]

    async def get_response(self, *_: Any, **__: Any) -> ModelResponse:
        return ModelResponse(output=self._turns.pop(0), usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


def call(name: str, id: str) -> ResponseFunctionToolCall:
    return ResponseFunctionToolCall(
        type="function_call", name=name, call_id=id, arguments=json.dumps({"call": id})
    )


def tools(children: Children) -> list[Any]:
    @function_tool
    def by_thread(call: str) -> str:
        return children.run(call)

    @function_tool
    async def by_task(call: str) -> str:
        await asyncio.sleep(0)
        return await children.run_async(call)

    @function_tool
    async def by_executor(call: str) -> str:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, children.run, call)
        return await asyncio.to_thread(children.run, call)

    return [by_thread, by_task, by_executor]


NAMES = ["by_thread", "by_task", "by_executor"]


def sixteen() -> list[Any]:
    return [call(NAMES[number % 3], id) for number, id in enumerate(CALLS)]


def check(listener: Listener, children: Children) -> None:
    children.check(listener)
    assert {child.call for child in children.all} == set(CALLS)
    told = {message.fields["id"]: message.fields["name"] for message in listener.messages("call_start")}
    assert told == {call.call_id: call.name for call in sixteen()}
    assert sorted(listener.ids("call_end")) == sorted(CALLS)
    assert not any("status" in message.fields for message in listener.messages("call_end"))


def test_calls_at_the_same_time(listener: Listener, children: Children) -> None:
    agent = Agent(name="a", tools=tools(children), model=Script(sixteen()))
    said = asyncio.run(Runner.run(agent, "go", hooks=TracerHooks()))
    assert said.final_output == "done"
    check(listener, children)


def test_calls_of_an_agent_with_hooks(listener: Listener, children: Children) -> None:
    agent = Agent(name="a", tools=tools(children), model=Script(sixteen()), hooks=TracerAgentHooks())
    asyncio.run(Runner.run(agent, "go"))
    check(listener, children)


def test_both_kinds_of_hooks_are_one_call(listener: Listener, children: Children) -> None:
    agent = Agent(name="a", tools=tools(children), model=Script(sixteen()), hooks=TracerAgentHooks())
    asyncio.run(Runner.run(agent, "go", hooks=TracerHooks()))
    check(listener, children)


def test_turns_of_a_synchronous_run(listener: Listener, children: Children) -> None:
    turns = [[call("by_thread", id)] for id in CALLS[:3]]
    agent = Agent(name="a", tools=tools(children), model=Script(*turns))
    # Since 3.14 nobody makes an event loop where there is none.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        Runner.run_sync(agent, "go", hooks=TracerHooks())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    children.check(listener)
    assert [(message.type, message.fields["id"]) for message in listener.messages()] == [
        (kind, id) for id in CALLS[:3] for kind in ("call_start", "spawn", "call_end")
    ]
    assert tracer.current() is None


def test_agent_as_a_tool_makes_calls_of_its_own(listener: Listener, children: Children) -> None:
    inner = Agent(
        name="inner",
        tools=tools(children),
        model=Script([call("by_thread", "inner_1"), call("by_task", "inner_2")]),
    )

    @function_tool
    async def delegate(call: str) -> str:
        await children.run_async(call)
        await Runner.run(inner, "go", hooks=TracerHooks())
        return await children.run_async(call)

    agent = Agent(name="outer", tools=[delegate], model=Script([call("delegate", "outer_1")]))
    asyncio.run(Runner.run(agent, "go", hooks=TracerHooks()))
    assert len(children.all) == 4
    children.check(listener)
    assert listener.ids("call_end")[-1] == "outer_1"


def test_shell_tools_are_calls_though_nobody_tells_their_ids(listener: Listener) -> None:
    shell_call = pytest.importorskip(
        "openai.types.responses.response_function_shell_tool_call", reason="this openai has no shell tool"
    )
    said: list[str] = []

    def execute(_: Any) -> str:
        import subprocess

        said.append(subprocess.check_output("echo $TRACER_TOOL_CALL_ID", shell=True, text=True).strip())
        return "ok"

    calls = [
        shell_call.ResponseFunctionShellToolCall(
            id=f"shell_{number}",
            type="shell_call",
            call_id=f"call_{number}",
            action=shell_call.Action(commands=["true"]),
            status="completed",
        )
        for number in range(2)
    ]
    between: list[Any] = []

    def needs_approval(*_: Any) -> bool:
        between.append(tracer.current())
        return False

    shell = agents.ShellTool(executor=execute, needs_approval=needs_approval)
    agent = Agent(name="a", tools=[shell], model=Script(calls))
    asyncio.run(Runner.run(agent, "go", hooks=TracerHooks()))
    assert len(set(said)) == 2
    assert listener.ids("call_start") == listener.ids("spawn") == listener.ids("call_end") == said
    # The task that runs them one after the other goes on.
    assert between == [None, None]


def test_failing_tool_ends_in_error(listener: Listener) -> None:
    @function_tool(failure_error_function=None)
    def fails(call: str) -> str:
        raise ValueError(call)

    agent = Agent(name="a", tools=[fails], model=Script([call("fails", "call_1")]))
    with pytest.raises(Exception, match="call_1"):
        asyncio.run(Runner.run(agent, "go", hooks=TracerHooks()))
    (end,) = listener.messages("call_end")
    assert end.fields["status"] == "error"


def test_cancelled_run_ends_its_calls(listener: Listener) -> None:
    async def run() -> None:
        begun = asyncio.Event()

        @function_tool
        async def waits(call: str) -> str:
            begun.set()
            await asyncio.Event().wait()
            return call

        agent = Agent(name="a", tools=[waits], model=Script([call("waits", "call_1")]))
        task = asyncio.create_task(Runner.run(agent, "go", hooks=TracerHooks()))
        await begun.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(run())
    (end,) = listener.messages("call_end")
    assert (end.fields["id"], end.fields["status"]) == ("call_1", "cancelled")


def test_hooks_inside_are_called_as_ever(listener: Listener, children: Children) -> None:
    told: list[str] = []

    class Hooks(RunHooks[Any]):
        async def on_agent_start(self, *_: Any) -> None:
            told.append("agent starts")

        async def on_llm_end(self, *_: Any) -> None:
            told.append("model said")

        async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
            told.append(f"{tool.name} starts {context.tool_call_id}")

        async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
            told.append(f"{tool.name} said {result}")

        async def on_agent_end(self, *_: Any) -> None:
            told.append("agent ends")

    agent = Agent(name="a", tools=tools(children), model=Script([call("by_thread", "call_1")]))
    asyncio.run(Runner.run(agent, "go", hooks=TracerHooks(Hooks())))
    assert told == [
        "agent starts",
        "model said",
        "by_thread starts call_1",
        "by_thread said call_1",
        "model said",
        "agent ends",
    ]
    children.check(listener)


def test_agent_hooks_inside_are_called_as_ever(listener: Listener, children: Children) -> None:
    told: list[str] = []

    class Hooks(AgentHooks[Any]):
        async def on_start(self, *_: Any) -> None:
            told.append("starts")

        async def on_end(self, *_: Any) -> None:
            told.append("ends")

    agent = Agent(
        name="a",
        tools=tools(children),
        model=Script([call("by_thread", "call_1")]),
        hooks=TracerAgentHooks(Hooks()),
    )
    asyncio.run(Runner.run(agent, "go"))
    assert told == ["starts", "ends"]
    children.check(listener)


def test_tools_are_left_as_they_are(listener: Listener, children: Children) -> None:
    (by_thread, *_) = tools(children)
    assert isinstance(by_thread, FunctionTool)
    before = dict(vars(by_thread))
    agent = Agent(name="a", tools=[by_thread], model=Script([call("by_thread", "call_1")]))
    asyncio.run(Runner.run(agent, "go", hooks=TracerHooks()))
    assert vars(by_thread) == before


def test_without_listener_hooks_do_nothing(no_listener: None) -> None:
    seen: list[Any] = []

    @function_tool
    def shell(call: str) -> str:
        seen.append(tracer.current())
        return call

    agent = Agent(name="a", tools=[shell], model=Script([call("shell", "call_1")]))
    asyncio.run(Runner.run(agent, "go", hooks=TracerHooks()))
    assert seen == [None]


def test_sdk_is_not_imported_with_the_package() -> None:
    assert python("import sys, tracer; print('agents' in sys.modules)") == "False\n"
