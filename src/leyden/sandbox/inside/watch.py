"""Watch a running program from outside: time, memory, processors, output, files."""

import os
import select
import time
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.05
GRACE = 0.25  # seconds of processor time in which SIGXCPU should have ended a process
MOST_FILES = 10_000  # in /tmp; each holds kernel memory that nothing else counts
RESERVE = 0.04  # share of the machine's memory that programs must leave free
TICKS = os.sysconf("SC_CLK_TCK")


class Watch:
    """Collects a child's output and notices when it exceeds a limit."""

    def __init__(
        self, child: int, limits: dict[str, Any], own_pids: bool, caps: dict[int, int]
    ) -> None:
        """Watch pipes; ``caps``: pipe -> the number of bytes that is too many."""
        self.limits, self.own_pids, self.child, self.caps = limits, own_pids, child, caps
        self.deadline = time.monotonic() + limits["wall_seconds"]
        self.received = {pipe: bytearray() for pipe in caps}
        self.ended: set[int] = set()  # pipes whose other end is closed
        self.exit = os.pidfd_open(child)
        for pipe in caps:
            os.set_blocking(pipe, False)

    def wait(self) -> str:
        """Wait until the child has ended (""), or must be ended; then the reason."""
        looked = time.monotonic()
        try:
            while True:
                open_pipes = [pipe for pipe in self.caps if pipe not in self.ended]
                ready, _, _ = select.select([self.exit, *open_pipes], [], [], POLL_SECONDS)
                within = [self.drain(pipe) for pipe in open_pipes]  # every pipe, also after a no
                if not all(within):
                    return "output"
                if self.exit in ready:
                    return ""
                now = time.monotonic()
                if now > self.deadline:
                    return "wall"
                if now - looked > POLL_SECONDS:
                    looked = now
                    if why := self.excess():
                        return why
        finally:
            os.close(self.exit)

    def drain(self, pipe: int) -> bool:
        """Read a pipe. False where it has given too much."""
        while len(self.received[pipe]) <= self.caps[pipe]:
            try:
                data = os.read(pipe, 1 << 20)
            except BlockingIOError:
                return True
            if not data:
                self.ended.add(pipe)
                return True
            self.received[pipe] += data
        return False

    def excess(self) -> str:
        """The limit that all processes of the program together exceed, or ""."""
        pids = others() if self.own_pids else [self.child]
        if sum(map(memory_of, pids)) > self.limits["memory_bytes"]:
            return "memory"
        spent, allowed = list(map(cpu_of, pids)), self.limits["cpu_seconds"]
        if sum(spent) > allowed + 1 or max(spent, default=0.0) > allowed + GRACE:
            return "cpu"
        if not self.own_pids:
            return ""
        files = os.statvfs("/tmp")
        if files.f_files - files.f_ffree > MOST_FILES:
            return "file"
        return "machine" if machine_is_full() else ""


def memory_of(pid: int) -> int:
    """Bytes of a process that are not files: private memory, and memory shared with its forks."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # the process has ended meanwhile
        return 0
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    names = ("RssAnon", "RssShmem", "VmPTE")
    return 1024 * sum(int(fields.get(name, "0 kB").split()[0]) for name in names)


def cpu_of(pid: int) -> float:
    """Seconds of processor time of a process and of its children that have ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    return sum(map(int, text.rpartition(")")[2].split()[11:15])) / TICKS


def machine_is_full() -> bool:
    """Whether the machine has almost no memory left, whoever it was counted to."""
    fields = memory_fields(Path("/proc/meminfo"))
    return fields.get("MemAvailable", 1) < RESERVE * fields.get("MemTotal", 1)


def memory_fields(path: Path) -> dict[str, int]:
    """The entries of a ``meminfo``, in KiB."""
    lines = path.read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}


def others() -> list[int]:
    """Every process in the sandbox except this one and the first."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return [pid for pid in pids if pid not in (1, os.getpid())]
