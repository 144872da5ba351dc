"""Processes that do not outlive the one that started them."""

import ctypes
import os
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)
PARENT = "LEYDEN_PARENT"  # the variable with the process id of the parent that a child should have


def die_with_parent(*, gently: bool = False) -> None:
    """Have the kernel end this process when its parent ends, however it ends: by SIGKILL, or
    ``gently`` by SIGTERM. Where it has ended already, as ``with_parent`` tells, end at once.

    Linux alone can do this. Elsewhere a killed command may leave its ranks behind, and the run's
    lock then keeps others out.
    """
    if sys.platform != "linux":
        return
    number = signal.SIGTERM if gently else signal.SIGKILL
    parent = int(os.environ.get(PARENT, os.getppid()))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended before the kernel knew
        os.kill(os.getpid(), number)


def end_child(process: subprocess.Popen, seconds: float) -> None:
    """Ask a child to end, and kill it if it has not after ``seconds``."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def with_parent() -> dict[str, str]:
    """The environment of a child that is to die with this process."""
    return {**os.environ, PARENT: str(os.getpid())}
