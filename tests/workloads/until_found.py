"""Asks tracer, on behalf of the agent that its argument names, until it would be told of something
that a call of its has left: an orphan is not told of."""

import json
import os
import signal
import socket
import sys
import time

signal.alarm(120 * int(os.environ.get("WORKLOAD_SLOWNESS", "1")))
question = json.dumps({"v": 1, "type": "findings", "agent": sys.argv[1]}).encode()
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as tracer:
    tracer.bind("")  # An address to answer to.
    tracer.connect(os.environ["TRACER_SOCKET"])
    tracer.send(question)
    while not any(found["kind"] == "outlived_call" for found in json.loads(tracer.recv(1 << 17))["findings"]):
        # Looked at again like a file that another process writes, not waited for by time.
        time.sleep(0.01)
        tracer.send(question)
