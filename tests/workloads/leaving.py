"""What the tools of agents do here: each call leaves a process that tells the call's id, so that the test
knows the truth. All calls are open at once: each waits for the others before it forks, and again before it
ends. In threads every other process is a daemon's child, of a shell that has ended; in tasks all are."""

import asyncio
import os
import signal
import subprocess
import threading

from tell import until_told

signal.alarm(120 * int(os.environ.get("WORKLOAD_SLOWNESS", "1")))

CALLS = [f"call_{number}" for number in range(16)]
WORKLOAD = os.environ["WORKLOAD"]


def line(id):
    """The shell ends when the process that it leaves has told its name."""
    return f'"$WORKLOAD" sleep as={id} streams=null & exec "$WORKLOAD" await names={id}'


_in_threads = threading.Barrier(len(CALLS))


def by_thread(id, **variables):
    """Leaves a process from the thread that this runs in."""
    env = {**os.environ, **variables}
    _in_threads.wait()
    if CALLS.index(id) % 2 == 0:
        subprocess.Popen([WORKLOAD, "sleep", f"as={id}", "streams=null"], env=env, start_new_session=True)
        until_told(id)
    else:
        subprocess.run(line(id), shell=True, env=env, check=True)
    _in_threads.wait()


class _Tasks:
    def __init__(self):
        self._missing, self._all = len(CALLS), asyncio.Event()

    async def wait(self):
        self._missing -= 1
        if self._missing == 0:
            self._all.set()
        await self._all.wait()


_begun, _forked = _Tasks(), _Tasks()


async def by_task(id, **variables):
    """Leaves a process from the event loop."""
    env = {**os.environ, **variables}
    await _begun.wait()
    if CALLS.index(id) % 2 == 0:
        shell = await asyncio.create_subprocess_exec("sh", "-c", line(id), env=env, start_new_session=True)
    else:
        shell = await asyncio.create_subprocess_shell(line(id), env=env)
    assert await shell.wait() == 0
    await _forked.wait()
