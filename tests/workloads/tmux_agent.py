"""An agent whose calls start what they start in a tmux: the first of them starts the server, which forks for
all of them, with the first one's environment. What is open when is as in the workload `shared-spawner`."""

import subprocess

import tracer
from tell import until_told


def ask(name):
    command = f'exec "$WORKLOAD" sleep as={name}'
    tmux = ["tmux", "-L", "tracer", "-f", "/dev/null", "new-session", "-d", "-s", name, command]
    subprocess.run(tmux, check=True)
    until_told(name)


with tracer.tool_call("tmux", "call_0"):
    ask("call_0")
    with tracer.tool_call("tmux", "call_1"):
        ask("call_1")
with tracer.tool_call("tmux", "call_2"):
    ask("call_2")
ask("no_call")
