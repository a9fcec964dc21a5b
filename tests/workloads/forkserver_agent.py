"""An agent whose calls hand their work to one worker process of multiprocessing's fork server, which the first
of them starts. What is open when is as in the workload `shared-spawner`. With the argument `bound` the worker
is told whose work it does, with `unbound` it is not."""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import tracer
from tell import until_told


def leave(name):
    subprocess.Popen([os.environ["WORKLOAD"], "sleep", f"as={name}", "streams=null"])
    until_told(name)


def main(how):
    bound = {"bound": tracer.bound, "unbound": lambda function: function}[how]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        with tracer.tool_call("work", "call_0"):
            pool.submit(bound(leave), "call_0").result()
            with tracer.tool_call("work", "call_1"):
                pool.submit(bound(leave), "call_1").result()
        with tracer.tool_call("work", "call_2"):
            pool.submit(bound(leave), "call_2").result()
        pool.submit(bound(leave), "no_call").result()


if __name__ == "__main__":
    main(sys.argv[1])
