"""How a Python workload talks to its test: see tests/src/facts.rs."""

import json
import os
import select
import socket


def _say(line):
    path = os.environ.get("WORKLOAD_FACTS")
    if path is None:
        print(json.dumps(line), flush=True)
        return
    with socket.socket(socket.AF_UNIX) as test:
        test.connect(path)
        test.sendall(json.dumps(line).encode() + b"\n")
        test.recv(1)


def tell(name, **details):
    """Says that something is so; returns when the test knows it."""
    _say({"tell": name, "pid": os.getpid(), "details": details})


def until_told(name):
    """Waits until something has told this."""
    _say({"until_told": name})


def hold(name):
    """Waits until the test releases this name."""
    _say({"hold": name, "pid": os.getpid()})


def until_dead(pid):
    """Waits for a death through a pidfd: that reaps nothing, and is no wait() for the kernel."""
    pidfd = os.pidfd_open(pid)
    death = select.poll()
    death.register(pidfd, select.POLLIN)
    death.poll(20_000)
    os.close(pidfd)
