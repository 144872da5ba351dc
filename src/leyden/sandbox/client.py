"""Run a program in a sandbox, and learn how it ended."""

import contextlib
import json
import os
import select
import struct
import subprocess
import time
from dataclasses import asdict, dataclass
from typing import Any

from leyden.sandbox.backends import Backend
from leyden.sandbox.memory import oom_kills

APART = 1000  # between the slots of siblings
GRACE_SECONDS = 10.0  # after a program's own time its sandbox is given up


@dataclass(frozen=True)
class Limits:
    """The limits of one program; CPU time and memory are over all its processes."""

    cpu_seconds: int = 10
    wall_seconds: float = 30.0
    memory_bytes: int = 2 * 2**30
    processes: int = 64
    file_bytes: int = 16 * 2**20
    open_files: int = 128
    output_bytes: int = 8 * 2**20
    result_bytes: int = 48 * 2**20


@dataclass(frozen=True)
class Ended:
    """The end of a program.

    ``how`` is "done", "exit", "cpu", "wall", "memory", "output", "file" or "signal N"; "sandbox"
    where it brought the sandbox down, "setup" where it was not begun, "machine" where the machine
    ran out of memory beside it.
    """

    how: str
    result: Any = None
    error: str = ""
    output: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class Sandbox:
    """One nursery, started on first use, and again after a program has brought it down.

    It dies with the thread that started it, so that nothing outlives us when we are killed.
    """

    def __init__(self, backend: Backend, slot: int = 0) -> None:
        self.backend, self.slot = backend, slot
        self.process: subprocess.Popen | None = None
        self.siblings: dict[str, Sandbox] = {}

    def sibling(self, name: str) -> "Sandbox":
        """Another sandbox of the same kind: its memory has never held what this one runs, which a
        program might read there."""
        if name not in self.siblings:
            slot = self.slot + APART * (1 + len(self.siblings))
            self.siblings[name] = Sandbox(self.backend, slot)
        return self.siblings[name]

    def run(self, job: dict[str, Any], limits: Limits) -> Ended:
        """Run one job: ``kind`` and ``program``, with ``tests``, ``function`` and ``calls``, or
        ``stdin``, as in ``inside/programs.py``."""
        if self.process is not None and self.process.poll() is not None:
            self.close()  # it died between programs
        process = self.process or self._start()
        data = json.dumps({**job, "limits": asdict(limits)}).encode()
        began, kills = time.monotonic(), oom_kills()
        deadline = began + limits.wall_seconds + GRACE_SECONDS
        reply = self._ask(process, data, deadline)
        # The kernel kills programs and their nursery first where a container's memory is full.
        by_machine = oom_kills() > kills
        if reply is None:
            self.close()
            how = "machine" if by_machine else "sandbox"
            return Ended(how, seconds=time.monotonic() - began)
        if not reply.pop("clean"):
            self.close()
        how = reply.pop("ended")
        return Ended("machine" if by_machine and how == "signal 9" else how, **reply)

    def _start(self) -> subprocess.Popen:
        self.process = self.backend.start(self.slot)
        return self.process

    def _ask(self, process: subprocess.Popen, data: bytes, deadline: float) -> dict | None:
        """The nursery's reply, or None where it has died or is late."""
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(struct.pack(">I", len(data)) + data)
            process.stdin.flush()
            head = _read(process.stdout.fileno(), 4, deadline)
            return json.loads(
                _read(process.stdout.fileno(), struct.unpack(">I", head)[0], deadline)
            )
        except (BrokenPipeError, EOFError, TimeoutError, ValueError, RecursionError):
            return None

    def close(self) -> None:
        """End the nursery, and with it everything in its sandbox; and its siblings."""
        for sibling in self.siblings.values():
            sibling.close()
        if self.process is None:
            return
        process, self.process = self.process, None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        process.wait()


def _read(descriptor: int, count: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < count:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            raise TimeoutError
        more = os.read(descriptor, min(count - len(data), 1 << 20))
        if not more:
            raise EOFError
        data += more
    return bytes(data)
