"""One process at a time works on a run, and leads a job."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from leyden.errors import StoreError
from leyden.files import disk_errors
from leyden.run.layout import JOB_LOCK, LOCK, RANKS_LOCK
from leyden.run.stage import Job

PATIENCE = 0.3  # seconds; `is_held` takes a lock for a moment to see whether it is free


@contextmanager
def lock(root: Path) -> Iterator[None]:
    """Hold the lock of a run's folder. Raises StoreError where another process works on the run.

    The system gives the lock back when the process dies.
    """
    with _held(root / LOCK):
        if (root / RANKS_LOCK).exists():  # ranks may have survived the process that started them
            with _held(root / RANKS_LOCK):
                pass
        yield


@contextmanager
def job_lock(root: Path, job: Job) -> Iterator[bool]:
    """Hold the lock of one job if it is free; whether it is ours.

    Who holds it begins the job, seals its stores and writes its record. Others may help.
    """
    path = job_lock_file(root, job)
    with ExitStack() as held:
        try:
            held.enter_context(_held(path, patience=0))
        except StoreError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            yield False
            return
        yield True


def job_lock_file(root: Path, job: Job) -> Path:
    """The file that is locked while a process leads ``job``."""
    return root / f"{JOB_LOCK}{str(job).replace('/', '-')}"


def is_led(root: Path, job: Job) -> bool:
    """Whether a process leads ``job`` at this moment."""
    return _is_locked(job_lock_file(root, job))


@contextmanager
def ranks_lock(root: Path) -> Iterator[IO[str]]:
    """Hold the lock that the ranks of a training job share. Whoever inherits the file holds it."""
    with _held(root / RANKS_LOCK, shared=True) as file:
        yield file


@contextmanager
def _held(path: Path, *, shared: bool = False, patience: float = PATIENCE) -> Iterator[IO[str]]:
    with disk_errors(path):  # around opening and locking alone: the work's errors are its own
        file = open(path, "a+")  # noqa: SIM115
        try:
            _take_soon(file, shared, patience)
        except BlockingIOError as error:
            file.close()
            raise StoreError(
                f"{path.parent}: another leyden process works on this run",
                hint="wait for it, or stop it; the run resumes from what is committed",
            ) from error
    with file:
        yield file


def _take_soon(file: IO[str], shared: bool, patience: float) -> None:
    until = time.monotonic() + patience
    while True:
        try:
            return take(file, shared)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(PATIENCE / 10)


def is_held(root: Path) -> bool:
    """Whether a process works on the run in ``root`` at this moment."""
    locks = [root / LOCK, root / RANKS_LOCK, *root.glob(f"{JOB_LOCK}*")]
    return any(map(_is_locked, locks))


def _is_locked(path: Path) -> bool:
    try:
        with open(path, "r+" if os.access(path, os.W_OK) else "r") as file:
            take(file)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or none that we may open
        return False
    return False


if sys.platform == "win32":  # implemented, not run: none of our machines has Windows
    import msvcrt

    def take(file: IO[str], shared: bool = False) -> None:
        """Lock the first byte. Raises BlockingIOError where it is locked.

        There are no shared locks here, so ranks go without; torchrun ends them with itself.
        """
        if shared:
            return
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(str(error)) from error

else:
    import fcntl

    def take(file: IO[str], shared: bool = False) -> None:
        """Lock the file. Raises BlockingIOError where it is locked."""
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
