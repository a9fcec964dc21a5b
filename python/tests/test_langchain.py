"""The adapters for LangChain and LangGraph, in the real ones: no model, no network."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
from functools import partial
from typing import Any

import pytest

import tracer
from conftest import Children, Listener, in_threads, python

pytest.importorskip("langchain_core", reason="langchain-core is not installed")

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, tool

from tracer import langchain as adapter
from tracer.langchain import TracerCallbackHandler, awrap_tool_call, wrap_tool_call

CALLS = [f"call_{number}" for number in range(16)]


def tools(children: Children) -> list[BaseTool]:
    @tool
    def by_thread(call: str) -> str:
        """Starts a child from the thread that the tool runs in."""
        return children.run(call)

    @tool
    async def by_task(call: str) -> str:
        """Starts a child from the event loop."""
        await asyncio.sleep(0)
        return await children.run_async(call)

    @tool
    async def by_executor(call: str) -> str:
        """Starts a child from a thread that the tool asks for."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, children.run, call)
        return await asyncio.to_thread(children.run, call)

    return [by_thread, by_task, by_executor]


def calls_of(*names: str) -> list[Any]:
    """A call for each id, of each tool in turn."""
    return [
        {"name": names[number % len(names)], "args": {"call": id}, "id": id, "type": "tool_call"}
        for number, id in enumerate(CALLS)
    ]


def check(listener: Listener, children: Children, names: tuple[str, ...]) -> None:
    """Every child is its call's, and every call was announced once, with its name."""
    children.check(listener)
    assert {child.call for child in children.all} == set(CALLS)
    starts = listener.messages("call_start")
    told = {message.fields["id"]: message.fields["name"] for message in starts}
    assert told == {call["id"]: call["name"] for call in calls_of(*names)}
    assert sorted(listener.ids("call_end")) == sorted(CALLS)
    assert not any("status" in message.fields for message in listener.messages("call_end"))


class TestToolNode:
    """LangGraph's ToolNode, which runs the calls of a message at the same time."""

    @pytest.fixture(autouse=True)
    def _langgraph(self) -> None:
        pytest.importorskip("langgraph.prebuilt", reason="langgraph is not installed")

    def graph(self, tools: list[BaseTool], **options: Any) -> Any:
        from langgraph.graph import MessagesState, StateGraph
        from langgraph.prebuilt import ToolNode

        graph = StateGraph(MessagesState)
        graph.add_node("tools", ToolNode(tools, **options))
        graph.set_entry_point("tools")
        graph.set_finish_point("tools")
        return graph.compile()

    def wrapped(self, tools: list[BaseTool]) -> Any:
        return self.graph(tools, wrap_tool_call=wrap_tool_call, awrap_tool_call=awrap_tool_call)

    def test_calls_in_threads(self, listener: Listener, children: Children) -> None:
        message = AIMessage("", tool_calls=calls_of("by_thread"))
        self.wrapped(tools(children)).invoke({"messages": [message]})
        check(listener, children, ("by_thread",))

    @pytest.mark.parametrize("names", [("by_task",), ("by_thread",), ("by_thread", "by_task", "by_executor")])
    def test_calls_in_tasks(self, listener: Listener, children: Children, names: tuple[str, ...]) -> None:
        message = AIMessage("", tool_calls=calls_of(*names))
        asyncio.run(self.wrapped(tools(children)).ainvoke({"messages": [message]}))
        check(listener, children, names)

    def test_callbacks_in_threads(self, listener: Listener, children: Children) -> None:
        message = AIMessage("", tool_calls=calls_of("by_thread"))
        config = {"callbacks": [TracerCallbackHandler()]}
        self.graph(tools(children)).invoke({"messages": [message]}, config)
        check(listener, children, ("by_thread",))

    @pytest.mark.parametrize("names", [("by_task",), ("by_thread",), ("by_thread", "by_task", "by_executor")])
    def test_callbacks_in_tasks(self, listener: Listener, children: Children, names: tuple[str, ...]) -> None:
        message = AIMessage("", tool_calls=calls_of(*names))
        config = {"callbacks": [TracerCallbackHandler()]}
        asyncio.run(self.graph(tools(children)).ainvoke({"messages": [message]}, config))
        check(listener, children, names)

    def test_wrapper_and_callbacks_are_one_call(self, listener: Listener, children: Children) -> None:
        message = AIMessage("", tool_calls=calls_of("by_thread"))
        config = {"callbacks": [TracerCallbackHandler()]}
        self.wrapped(tools(children)).invoke({"messages": [message]}, config)
        check(listener, children, ("by_thread",))

    def test_call_in_the_tool_by_its_runtime(self, listener: Listener, children: Children) -> None:
        from langgraph.prebuilt import ToolRuntime

        def shell(call: str, runtime: ToolRuntime) -> str:
            """Starts a child."""
            with adapter.tool_call("shell", runtime, summary="echo"):
                return children.run(call)

        # The annotation is looked up, and this function's is a local name.
        shell.__annotations__["runtime"] = ToolRuntime
        message = AIMessage("", tool_calls=calls_of("shell"))
        config = {"configurable": {"thread_id": "thread-1"}}
        self.graph([tool(shell)]).invoke({"messages": [message]}, config)
        check(listener, children, ("shell",))
        told = listener.messages("call_start")[0].fields
        assert (told["summary"], told["session"]) == ("echo", "thread-1")

    def test_session_and_command_are_told(self, listener: Listener) -> None:
        @tool
        def shell(command: str) -> str:
            """Runs a command."""
            return subprocess.check_output(command, shell=True, text=True)

        call = {"name": "shell", "args": {"command": "echo x"}, "id": "call_1", "type": "tool_call"}
        config = {"configurable": {"thread_id": "thread-1"}}
        for graph, callbacks in [
            (self.wrapped([shell]), []),
            (self.graph([shell]), [TracerCallbackHandler()]),
        ]:
            graph.invoke({"messages": [AIMessage("", tool_calls=[call])]}, {**config, "callbacks": callbacks})
        for start in listener.messages("call_start"):
            told = {key: start.fields[key] for key in ("id", "name", "session", "summary")}
            assert told == {"id": "call_1", "name": "shell", "session": "thread-1", "summary": "echo x"}

    @pytest.mark.parametrize("callbacks", [False, True], ids=["wrapper", "callbacks"])
    @pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
    def test_failing_tool_ends_in_error(
        self, listener: Listener, callbacks: bool, asynchronous: bool
    ) -> None:
        @tool
        def fails() -> str:
            """Fails."""
            raise ValueError("no")

        options: dict[str, Any] = {"handle_tool_errors": True}
        if not callbacks:
            options.update(wrap_tool_call=wrap_tool_call, awrap_tool_call=awrap_tool_call)
        call = {"name": "fails", "args": {}, "id": "call_1", "type": "tool_call"}
        graph, state = self.graph([fails], **options), {"messages": [AIMessage("", tool_calls=[call])]}
        config = {"callbacks": [TracerCallbackHandler()] if callbacks else []}
        said = asyncio.run(graph.ainvoke(state, config)) if asynchronous else graph.invoke(state, config)
        assert said["messages"][-1].status == "error"
        (end,) = listener.messages("call_end")
        assert end.fields["status"] == "error"
        assert tracer.current() is None

    @pytest.mark.parametrize("callbacks", [False, True], ids=["wrapper", "callbacks"])
    def test_cancelled_tool_ends_cancelled(self, listener: Listener, callbacks: bool) -> None:
        async def agent() -> None:
            begun = asyncio.Event()

            @tool
            async def waits() -> str:
                """Waits for ever."""
                begun.set()
                await asyncio.Event().wait()
                return ""

            call = {"name": "waits", "args": {}, "id": "call_1", "type": "tool_call"}
            state = {"messages": [AIMessage("", tool_calls=[call])]}
            graph = self.graph([waits]) if callbacks else self.wrapped([waits])
            config = {"callbacks": [TracerCallbackHandler()] if callbacks else []}
            run = asyncio.create_task(graph.ainvoke(state, config))
            await begun.wait()
            run.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await run

        asyncio.run(agent())
        (end,) = listener.messages("call_end")
        assert end.fields["status"] == "cancelled"

    @pytest.mark.parametrize("callbacks", [False, True], ids=["wrapper", "callbacks"])
    def test_interrupted_tool_ends_cancelled_and_begins_again(
        self, listener: Listener, callbacks: bool
    ) -> None:
        from langgraph.checkpoint.memory import InMemorySaver
        from langgraph.graph import MessagesState, StateGraph
        from langgraph.prebuilt import ToolNode
        from langgraph.types import Command, interrupt

        @tool
        def asks() -> str:
            """Asks a human."""
            return str(interrupt("may I?"))

        options: Any = {} if callbacks else {"wrap_tool_call": wrap_tool_call}
        graph = StateGraph(MessagesState)
        graph.add_node("tools", ToolNode([asks], **options))
        graph.set_entry_point("tools")
        agent = graph.compile(checkpointer=InMemorySaver())
        config: Any = {
            "configurable": {"thread_id": "1"},
            "callbacks": [TracerCallbackHandler()] if callbacks else [],
        }
        call = {"name": "asks", "args": {}, "id": "call_1", "type": "tool_call"}
        agent.invoke({"messages": [AIMessage("", tool_calls=[call])]}, config)
        agent.invoke(Command(resume="yes"), config)
        told = [(message.type, message.fields.get("status")) for message in listener.messages()]
        assert told == [
            ("call_start", None),
            ("call_end", "cancelled"),
            ("call_start", None),
            ("call_end", None),
        ]


class TestCreateAgent:
    """LangChain's agent, which sends each call to a node of its own."""

    def agent(self, tools: list[BaseTool], calls: list[Any]) -> Any:
        agents = pytest.importorskip("langchain.agents", reason="langchain is not installed")
        from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel

        class Model(FakeMessagesListChatModel):
            def bind_tools(self, *_: Any, **__: Any) -> Model:
                return self

        model = Model(responses=[AIMessage("", tool_calls=calls), AIMessage("done")])
        return agents.create_agent(model, tools, middleware=[adapter.TracerMiddleware()])

    def test_calls_in_threads(self, listener: Listener, children: Children) -> None:
        agent = self.agent(tools(children), calls_of("by_thread"))
        said = agent.invoke({"messages": [("user", "go")]})
        assert len([message for message in said["messages"] if isinstance(message, ToolMessage)]) == 16
        check(listener, children, ("by_thread",))

    def test_calls_in_tasks(self, listener: Listener, children: Children) -> None:
        names = ("by_thread", "by_task", "by_executor")
        agent = self.agent(tools(children), calls_of(*names))
        asyncio.run(agent.ainvoke({"messages": [("user", "go")]}))
        check(listener, children, names)


class TestCallbackHandler:
    """Tools invoked by hand."""

    def test_tool_invoked_in_the_main_thread_leaves_no_call_behind(
        self, listener: Listener, children: Children
    ) -> None:
        (by_thread, _, _) = tools(children)
        for id in ["call_1", "call_2"]:
            call: Any = {"name": "by_thread", "args": {"call": id}, "id": id, "type": "tool_call"}
            by_thread.invoke(call, {"callbacks": [TracerCallbackHandler()]})
            assert tracer.current() is None
        children.check(listener)

    def test_tool_invoked_without_an_id_has_its_run_id(self, listener: Listener) -> None:
        @tool
        def shell() -> str:
            """Tells its call."""
            return tracer.environment()["TRACER_TOOL_CALL_ID"]

        said = shell.invoke({}, {"callbacks": [TracerCallbackHandler()]})
        assert listener.ids("call_start") == listener.ids("call_end") == [said]

    def test_tools_in_a_tool_are_calls_of_their_own(self, listener: Listener, children: Children) -> None:
        (inner, _, _) = tools(children)

        @tool
        def outer() -> str:
            """Runs another tool."""
            inner.invoke({"name": "by_thread", "args": {"call": "inner"}, "id": "inner", "type": "tool_call"})
            return children.run("outer")

        call: Any = {"name": "outer", "args": {}, "id": "outer", "type": "tool_call"}
        outer.invoke(call, {"callbacks": [TracerCallbackHandler()]})
        assert listener.ids("call_end") == ["inner", "outer"]
        children.check(listener)

    def test_runs_in_parallel_do_not_mix(self, listener: Listener, children: Children) -> None:
        (by_thread, _, _) = tools(children)
        handler = TracerCallbackHandler()

        def call(id: str) -> None:
            call: Any = {"name": "by_thread", "args": {"call": id}, "id": id, "type": "tool_call"}
            RunnableLambda(lambda _: by_thread.invoke(call)).invoke(None, {"callbacks": [handler]})

        in_threads([partial(call, id) for id in CALLS])
        check(listener, children, ("by_thread",))
        assert not handler._open

    def test_cancelled_tool_is_over_with_its_task(self, listener: Listener) -> None:
        handler = TracerCallbackHandler()

        async def agent() -> None:
            begun = asyncio.Event()

            @tool
            async def waits() -> str:
                """Waits for ever."""
                begun.set()
                await asyncio.Event().wait()
                return ""

            run = asyncio.create_task(waits.ainvoke({}, {"callbacks": [handler]}))
            await begun.wait()
            run.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await run

        asyncio.run(agent())
        (end,) = listener.messages("call_end")
        assert end.fields["status"] == "cancelled"
        gc.collect()
        assert not handler._open

    def test_without_listener_nothing_is_kept(self, no_listener: None) -> None:
        @tool
        def shell() -> str:
            """Tells its call."""
            return str(tracer.current())

        handler = TracerCallbackHandler()
        assert shell.invoke({}, {"callbacks": [handler]}) == "None"
        assert not handler._open


def test_langchain_is_not_imported_with_the_package() -> None:
    said = python("import sys, tracer; print([name for name in sys.modules if name.startswith('lang')])")
    assert said == "[]\n"


def test_unknown_name_is_missing_as_ever() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Missing'"):
        _ = adapter.Missing
