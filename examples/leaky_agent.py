#!/usr/bin/env python3
"""A stand-in for an agent that calls tools, and leaves four things behind.

Run it alone and it looks fine: every tool answers and it ends with status 0. Run it under tracer:

    tracer run -- python3 examples/leaky_agent.py

Whatever it leaks ends by itself after a minute.
"""

import os
import signal
import subprocess
import sys
import time

LIFE = 60  # seconds
TIMEOUT = float(os.environ.get("TOOL_TIMEOUT", "0.3"))  # seconds


def bounded():
    """Runs in each child before its program: the alarm stays set across exec."""
    signal.alarm(LIFE)


def start_dev_server():
    """Leak 1: a server that nobody stops. The next run finds its port taken."""
    command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=bounded
    )
    port = server.stdout.readline().split("port ")[1].split()[0]
    return server, f"listening on 127.0.0.1:{port}"


def run_tests():
    """Leak 2: the timeout kills the shell, and not what the shell started."""
    try:
        subprocess.run(f"sleep {LIFE}; echo passed", shell=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return "timed out, killed"


def format_code():
    """Leak 3: a child that is never waited for. It ends at once and stays a zombie."""
    return subprocess.Popen(["true"]), "formatted in the background"


def watch_files():
    """Leak 4: a daemon. Its double fork takes it out of the agent's sight."""
    first = os.fork()
    if first == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", str(LIFE)])
        os._exit(0)
    os.waitpid(first, 0)
    return "watching"


def main():
    # Kept, as agents keep their sessions: what is forgotten is to wait for them.
    formatter, answer = format_code()
    print(f"format_code: {answer}")
    server, answer = start_dev_server()
    print(f"start_dev_server: {answer}")
    print(f"run_tests: {run_tests()}")
    print(f"watch_files: {watch_files()}")
    time.sleep(1.2)  # The model thinks.
    print("All done.", flush=True)
    # As agents with worker threads end, in order not to wait for those.
    os._exit(0)


if __name__ == "__main__":
    main()
