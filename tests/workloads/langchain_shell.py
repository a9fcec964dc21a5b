"""An agent of LangChain whose model, which is none, uses LangChain's own shell: one for all calls, to whose
input each writes its command. The last two calls are made in one turn. What a call leaves is in a session of
its own, so that it outlives the shell."""

import os
import signal

from langchain.agents import create_agent
from langchain.agents.middleware import HostExecutionPolicy, ShellToolMiddleware
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from tracer.langchain import TracerMiddleware

signal.alarm(120 * int(os.environ.get("WORKLOAD_SLOWNESS", "1")))

TURNS = [["call_0"], ["call_1"], ["call_2", "call_3"], []]


def shell(id):
    command = f'setsid "$WORKLOAD" sleep as={id} streams=null & "$WORKLOAD" await names={id}'
    return {"name": "shell", "args": {"command": command}, "id": id, "type": "tool_call"}


class Script(BaseChatModel):
    @property
    def _llm_type(self):
        return "script"

    def bind_tools(self, tools, **_):
        return self

    def _generate(self, messages, *_, **__):
        turn = TURNS[sum(isinstance(message, AIMessage) for message in messages)]
        message = AIMessage("", tool_calls=[shell(id) for id in turn])
        return ChatResult(generations=[ChatGeneration(message=message)])


variables = {name: os.environ[name] for name in ("PATH", "WORKLOAD", "WORKLOAD_FACTS")}
shell_of_all = ShellToolMiddleware(execution_policy=HostExecutionPolicy(), env=variables)
agent = create_agent(Script(), [], middleware=[shell_of_all, TracerMiddleware()])
agent.invoke({"messages": [("user", "go")]})
