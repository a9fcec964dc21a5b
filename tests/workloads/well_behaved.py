"""Ordinary Python that starts many processes and leaves none. The argument says how."""

import asyncio
import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys


def square(number):
    return number * number


def pool(method):
    with multiprocessing.get_context(method).Pool(3) as workers:
        assert workers.map(square, range(40)) == [n * n for n in range(40)]


def run_many():
    for _ in range(20):
        subprocess.run(["true"], check=True)
    subprocess.run("echo one | tr a-z A-Z | grep -c ONE", shell=True, check=True)
    assert subprocess.check_output(["sh", "-c", "echo out; exit 0"]) == b"out\n"


def threads():
    with concurrent.futures.ThreadPoolExecutor(4) as workers:
        done = workers.map(lambda _: subprocess.run(["true"]).returncode, range(40))
        assert sum(done) == 0


def executor():
    with concurrent.futures.ProcessPoolExecutor(2) as workers:
        assert list(workers.map(square, range(10))) == [n * n for n in range(10)]


async def overlapping():
    async def one():
        process = await asyncio.create_subprocess_exec("true")
        return await process.wait()

    assert sum(await asyncio.gather(*(one() for _ in range(20)))) == 0


def double_fork_reaped():
    """A middle process that ends at once, its child that is awaited through a pipe."""
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            os.write(writer, b"done")
        os._exit(0)
    os.waitpid(middle, 0)
    os.close(writer)
    assert os.read(reader, 4) == b"done"
    assert os.read(reader, 4) == b""


WAYS = {
    "fork_pool": lambda: pool("fork"),
    "spawn_pool": lambda: pool("spawn"),
    "forkserver_pool": lambda: pool("forkserver"),
    "subprocess_run": run_many,
    "threads": threads,
    "executor": executor,
    "asyncio": lambda: asyncio.run(overlapping()),
    "double_fork": double_fork_reaped,
}

if __name__ == "__main__":
    signal.alarm(120 * int(os.environ.get("WORKLOAD_SLOWNESS", "1")))
    WAYS[sys.argv[1]]()
