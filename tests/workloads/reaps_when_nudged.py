"""A parent that reaps when SIGCHLD comes, and was not ready yet when its child died: the signal was
lost, and the child stands until somebody nudges the parent."""

import os
import signal
import subprocess

from tell import tell, until_dead

signal.alarm(120 * int(os.environ.get("WORKLOAD_SLOWNESS", "1")))
child = subprocess.Popen([os.environ["WORKLOAD"], "exit", "as=zombie", "code=7"])
until_dead(child.pid)


def reap(*_):
    os.waitpid(child.pid, 0)
    os._exit(0)


signal.signal(signal.SIGCHLD, reap)
tell("parent", child=child.pid)
while True:
    signal.pause()
