"""One process at a time works on a run."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from leyden.errors import StoreError
from leyden.files import disk_errors
from leyden.run.layout import LOCK


@contextmanager
def lock(root: Path) -> Iterator[int]:
    """Hold the lock of a run's folder; yields its file descriptor.

    Raises StoreError where another process holds it. The lock is given back when the file is
    closed in every process that has it open, so also when they die.
    """
    with disk_errors(root), open(root / LOCK, "a+") as file:
        try:
            take(file)
        except BlockingIOError as error:
            raise StoreError(
                f"{root}: another leyden process works on this run",
                hint="wait for it, or stop it; the run resumes from what is committed",
            ) from error
        yield file.fileno()


if sys.platform == "win32":  # implemented, not run: none of our machines has Windows
    import msvcrt

    def take(file: IO[str]) -> None:
        """Lock the first byte. Raises BlockingIOError where it is locked."""
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(str(error)) from error

else:
    import fcntl

    def take(file: IO[str]) -> None:
        """Lock the file. Raises BlockingIOError where it is locked."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
