"""The CPUs that other programs used while this one worked: why its timings may be too long."""

import os
import time
from pathlib import Path

PROC = Path("/proc")
FULL = 0.9  # of the machine's CPUs: from here on somebody waits
NOTICED = 0.1  # of the machine's CPUs: others below this are not worth a word


class Neighbours:
    """Counts from its making on. Only Linux tells; elsewhere there is nothing to say.

    ``root`` is the process whose descendants are ours, by default this one.
    """

    def __init__(self, root: int | None = None) -> None:
        self.root = os.getpid() if root is None else root
        self.began, self.at_first = time.monotonic(), self._seconds()

    def facts(self) -> dict[str, float]:
        """``cpus`` of the machine, and the mean numbers of them that we and others used."""
        elapsed = time.monotonic() - self.began
        now = self._seconds()
        if self.at_first is None or now is None or elapsed <= 0:
            return {}
        whole, ours = (
            max(0.0, after - before) / elapsed
            for after, before in zip(now, self.at_first, strict=True)
        )
        used = {"cpus_used": round(ours, 2), "cpus_of_others": round(max(0.0, whole - ours), 2)}
        return {"cpus": float(os.cpu_count() or 1), **used}

    def _seconds(self) -> tuple[float, float] | None:
        try:
            return machine_seconds(), tree_seconds(self.root)
        except (OSError, ValueError, IndexError):
            return None


def crowded(facts: dict[str, float]) -> bool:
    """Whether the machine was full, and not with our work alone."""
    cpus, ours, others = (facts.get(k, 0.0) for k in ("cpus", "cpus_used", "cpus_of_others"))
    return others > NOTICED * cpus and ours + others > FULL * cpus


def machine_seconds() -> float:
    """CPU seconds of all processes since the machine started, with those that a host took away."""
    fields = (PROC / "stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def tree_seconds(root: int) -> float:
    """CPU seconds of a process and all its descendants, those that have ended included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            process = int(folder.name)
            parents[process], ticks[process] = int(fields[1]), sum(map(int, fields[11:15]))
    ours = {root}
    while more := {child for child, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(ticks.get(process, 0) for process in ours) / os.sysconf("SC_CLK_TCK")
