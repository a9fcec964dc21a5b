"""An agent of the OpenAI Agents SDK whose model, which is none, makes 16 calls in one turn. Arguments:

- `by_thread` or `by_task`: what the tools are;
- who announces their calls: `hooks` (the adapter of the package in `python/`) or `nobody`.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

import leaving
from agents import Agent, Runner, function_tool, set_tracing_disabled
from agents.items import ModelResponse
from agents.models.interface import Model
from agents.tool_context import ToolContext
from agents.usage import Usage
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

kind, who = sys.argv[1:]
set_tracing_disabled(True)


@function_tool(failure_error_function=None)
def by_thread(context: ToolContext) -> str:
    leaving.by_thread(context.tool_call_id)
    return "left"


@function_tool(failure_error_function=None)
async def by_task(context: ToolContext) -> str:
    await leaving.by_task(context.tool_call_id)
    return "left"


class Script(Model):
    """First the calls, then that it is done."""

    def __init__(self):
        calls = [
            ResponseFunctionToolCall(type="function_call", name=kind, call_id=id, arguments="{}")
            for id in leaving.CALLS
        ]
        done = ResponseOutputText(type="output_text", text="done", annotations=[])
        message = ResponseOutputMessage(
            id="m", type="message", role="assistant", status="completed", content=[done]
        )
        self._turns = [calls, [message]]

    async def get_response(self, *_, **__):
        return ModelResponse(output=self._turns.pop(0), usage=Usage(), response_id=None)

    def stream_response(self, *_, **__):
        raise NotImplementedError


hooks = None
if who == "hooks":
    from tracer.openai_agents import TracerHooks

    hooks = TracerHooks()
else:
    assert who == "nobody"


async def run():
    # Tools that are no coroutines run in its threads, of which there are few by default.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(len(leaving.CALLS)))
    agent = Agent(name="a", tools=[by_thread, by_task], model=Script())
    return await Runner.run(agent, "go", hooks=hooks)


assert asyncio.run(run()).final_output == "done"
