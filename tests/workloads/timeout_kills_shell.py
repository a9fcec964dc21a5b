"""The classic: subprocess.run(shell=True, timeout=...) kills the shell, not what it started."""

import os
import signal
import subprocess

from tell import tell

slowness = int(os.environ.get("WORKLOAD_SLOWNESS", "1"))
signal.alarm(120 * slowness)
try:
    # Not the shell's last command, so the shell does not execute it in its own place.
    subprocess.run('"$WORKLOAD" sleep as=grandchild; echo done', shell=True, timeout=slowness)
except subprocess.TimeoutExpired:
    tell("timed-out")
