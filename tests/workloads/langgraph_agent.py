"""An agent of LangGraph whose model, which is none, makes 16 calls in one message. Arguments:

- `by_thread` or `by_task`: what the tools are;
- who announces their calls: `wrapper`, `callbacks` (adapters of the package in `python/`), `span`
  (OpenTelemetry), `traceparent` (the same, but only the environment of what is started says so),
  `every_other` (the wrapper, for half of them) or `nobody`.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Annotated

import leaving
from langchain_core.messages import AIMessage
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.graph import MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

kind, who = sys.argv[1:]
variables = dict


@tool
def by_thread(id: Annotated[str, InjectedToolCallId]) -> str:
    """Leaves a process."""
    leaving.by_thread(id, **variables())
    return id


@tool
async def by_task(id: Annotated[str, InjectedToolCallId]) -> str:
    """Leaves a process."""
    await leaving.by_task(id, **variables())
    return id


def wrapped_in(block):
    """Options of a ToolNode that runs each tool in `block(call)`."""

    def wrap(request, execute):
        with block(request.tool_call):
            return execute(request)

    async def awrap(request, execute):
        with block(request.tool_call):
            return await execute(request)

    return {"wrap_tool_call": wrap, "awrap_tool_call": awrap}


options, config = {}, {"max_concurrency": len(leaving.CALLS)}
if who == "wrapper":
    from tracer.langchain import awrap_tool_call, wrap_tool_call

    options = {"wrap_tool_call": wrap_tool_call, "awrap_tool_call": awrap_tool_call}
elif who == "callbacks":
    from tracer.langchain import TracerCallbackHandler

    config["callbacks"] = [TracerCallbackHandler()]
elif who in ("span", "traceparent"):
    import tracer
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from tracer.otel import TracerSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(TracerSpanProcessor())
    spans = provider.get_tracer("test")

    @contextmanager
    def span(call):
        attributes = {"gen_ai.tool.name": call["name"], "gen_ai.tool.call.id": call["id"]}
        with spans.start_as_current_span(f"execute_tool {call['name']}", attributes=attributes):
            if who == "span":
                yield
                return
            with tracer.outside_calls():
                yield

    def variables():
        if who == "span":
            return {}
        context = trace.get_current_span().get_span_context()
        return {"TRACEPARENT": f"00-{context.trace_id:032x}-{context.span_id:016x}-01"}

    options = wrapped_in(span)
elif who == "every_other":
    import tracer

    def every_other(call):
        announced = leaving.CALLS.index(call["id"]) % 2 == 0
        return tracer.tool_call(call["name"], call["id"]) if announced else tracer.outside_calls()

    options = wrapped_in(every_other)
else:
    assert who == "nobody"


def model(state):
    if state["messages"]:
        return {"messages": [AIMessage("done")]}
    calls = [{"name": kind, "args": {}, "id": id, "type": "tool_call"} for id in leaving.CALLS]
    return {"messages": [AIMessage("", tool_calls=calls)]}


graph = StateGraph(MessagesState)
graph.add_node("model", model)
graph.add_node("tools", ToolNode([by_thread, by_task], handle_tool_errors=False, **options))
graph.set_entry_point("model")
graph.add_conditional_edges("model", tools_condition)
graph.add_edge("tools", "model")
agent = graph.compile()


async def in_loop():
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(len(leaving.CALLS)))
    return await agent.ainvoke({"messages": []}, config)


said = agent.invoke({"messages": []}, config) if kind == "by_thread" else asyncio.run(in_loop())
assert said["messages"][-1].content == "done"
