"""Processes that do not outlive the one that started them."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_parent(*, gently: bool = False) -> None:
    """Have the kernel end this process when its parent ends, however it ends: by SIGKILL, or
    ``gently`` by SIGTERM.

    Linux alone can do this. Elsewhere a killed command may leave its ranks behind, and the run's
    lock then keeps others out.
    """
    if sys.platform != "linux":
        return
    number, parent = signal.SIGTERM if gently else signal.SIGKILL, os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended before the kernel knew
        os.kill(os.getpid(), number)
