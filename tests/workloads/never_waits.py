"""A parent that starts a child, keeps its Popen object and never polls it. Ends as its argument
says: `os_exit`, `signal NUMBER`, or `normally` (then CPython reaps in Popen.__del__)."""

import os
import signal
import subprocess
import sys

from tell import hold, tell, until_dead

signal.alarm(120 * int(os.environ.get("WORKLOAD_SLOWNESS", "1")))
child = subprocess.Popen([os.environ["WORKLOAD"], "exit", "as=zombie", "code=7"])
until_dead(child.pid)
tell("parent", child=child.pid)
hold("standing")
if sys.argv[1] == "os_exit":
    os._exit(0)
elif sys.argv[1] == "signal":
    os.kill(os.getpid(), int(sys.argv[2]))
else:
    assert sys.argv[1] == "normally"
