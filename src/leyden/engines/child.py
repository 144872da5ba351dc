"""A process that computes for us: started in a group of its own, watched, and ended with its group.

It says nothing of what is computed. What goes wrong with the process is a ``ChildDied``, which the
engine that uses it decides about.
"""

import contextlib
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, cast

import numpy as np

from leyden.engines.inside.frames import Frame, read_frame, write_frame
from leyden.errors import first_line

END_SECONDS = 10.0  # for a process to end by itself when it is asked to
LAST_LINES = 8  # of what it printed, for an error
GAVE_UP = "it gave up"  # with an error of its own, which says why
START_SECONDS = 3600.0  # for weights of hundreds of gigabytes


class ChildDied(Exception):
    """The process ended, hung, or could not go on; the message is a clause that says how."""


class Child:
    """A started process, frames to it and frames from it."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], stall_seconds: float
    ) -> None:
        self.stall_seconds = stall_seconds
        self._log = tempfile.TemporaryFile()  # noqa: SIM115, closed in close()
        watched, self._life = os.pipe()  # its end tells the child's guard that we have ended
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                [*command, str(watched)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,
                pass_fds=[watched],
                env={**os.environ, **environment},
            )
        except OSError as error:
            os.close(self._life)
            raise ChildDied(f"it cannot be started: {error}") from error
        finally:
            os.close(watched)
        self._garbled = ""
        self._received: queue.Queue[Frame | None] = queue.Queue()
        self._waiting_to_send: queue.Queue[Any] = queue.Queue()
        for target in (self._read, self._write):
            threading.Thread(target=target, daemon=True).start()

    @property
    def group(self) -> int:
        """The process group, which is also the process id of its first process."""
        return self._process.pid

    def send(self, header: dict[str, Any], *arrays: np.ndarray) -> None:
        """Send a frame, soon. Where the child has ended, ``receive`` tells."""
        self._waiting_to_send.put((header, arrays))

    def ready(self) -> None:
        """Wait until the child says that it can work. Raises ChildDied."""
        until = time.monotonic() + START_SECONDS
        while self._next(self.stall_seconds)[0]["kind"] != "ready":
            if time.monotonic() > until:
                raise ChildDied(f"it was not ready after {START_SECONDS:.0f} s")

    def receive(self) -> Frame:
        """The next frame that is no heartbeat. Raises ChildDied."""
        while True:
            header, arrays = self._next(self.stall_seconds)
            if header["kind"] != "beat":
                return header, arrays

    def _next(self, seconds: float) -> Frame:
        try:
            frame = self._received.get(timeout=seconds)
        except queue.Empty:
            raise ChildDied(f"it showed no sign of life for {seconds:.0f} s") from None
        if frame is None:
            raise ChildDied(f"its process ended{self._garbled}{self._ending()}")
        if frame[0]["kind"] == "fatal":
            raise ChildDied(f"{GAVE_UP}: {frame[0]['why']}")
        return frame

    def _ending(self) -> str:
        """Wait for the end of the process; the last lines that it printed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        said = [line.strip() for line in lines if line.strip()][-LAST_LINES:]
        return f"; it last printed: {' | '.join(said)[-800:]}" if said else ""

    def close(self, *, gently: bool = True) -> None:
        """End the process and every other of its group. The group is gone when this returns."""
        self._waiting_to_send.put(None)
        if gently:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
        with contextlib.suppress(OSError):
            os.close(self._life)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def _read(self) -> None:
        stream = cast(BinaryIO, self._process.stdout)
        try:
            while (frame := read_frame(stream)) is not None:
                self._received.put(frame)
        except Exception as error:  # of any kind: what came was no frame
            self._garbled = f"; what it sent cannot be read: {first_line(error)}"
        finally:
            self._received.put(None)

    def _write(self) -> None:
        """Send from a thread: a pipe that is full must not keep us from reading the other."""
        stream = cast(BinaryIO, self._process.stdin)
        with contextlib.suppress(OSError, ValueError):
            while (frame := self._waiting_to_send.get()) is not None:
                write_frame(stream, frame[0], *frame[1])
        with contextlib.suppress(OSError):
            stream.close()
