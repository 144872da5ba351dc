"""Ends a whole group of processes when the one that asked for them has ended.

vLLM's own processes outlive a parent that is killed. So the first process of the group does nothing
but watch: a pipe, which the asking process holds open and never writes to, and the worker. When
either ends, it kills the group.
"""

import ctypes
import os
import select
import signal
import sys

CHECK_SECONDS = 0.5
PR_SET_PDEATHSIG = 1  # prctl(2)


def split_off_guard(life: int) -> None:
    """Fork: the child returns and does the work; the parent watches the pipe ``life`` and the
    child, and never returns."""
    guard = os.getpid()
    worker = os.fork()
    if worker == 0:
        os.close(life)
        _die_with(guard)
        return
    for number in (0, 1):
        os.close(number)
    try:
        while os.waitpid(worker, os.WNOHANG) == (0, 0):
            if select.select([life], [], [], CHECK_SECONDS)[0]:  # nothing is written: its end
                break
    finally:
        os.killpg(0, signal.SIGKILL)


def _die_with(guard: int) -> None:
    """Linux alone can do this; elsewhere a killed guard leaves the worker behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(1)
