"""Whether the machine, or the container or batch job that we run in, is out of memory.

Linux limits a container by a control group. The kernel then kills inside the group while the
machine as a whole has memory left. Source: the kernel's cgroup-v1/memory.rst and cgroup-v2.rst.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from leyden.sandbox.inside.watch import RESERVE, machine_is_full, memory_fields

ROOT = Path("/")


def wait_for_memory(seconds: float = 20.0) -> None:
    """Return when there is memory for programs again, or after ``seconds``."""
    deadline = time.monotonic() + seconds
    while memory_is_full() and time.monotonic() < deadline:
        time.sleep(0.2)


def memory_is_full(root: Path = ROOT) -> bool:
    """Whether a program could be killed for the memory that others hold."""
    if root == ROOT and (root / "proc/meminfo").exists() and machine_is_full():
        return True
    return any(used > (1 - RESERVE) * limit for limit, used in group_limits(root))


def free_memory(root: Path = ROOT) -> int:
    """Bytes that this process can still get, from the machine and from every control group."""
    machine = memory_fields(root / "proc/meminfo").get("MemAvailable", 0) * 1024
    return min([machine, *(limit - used for limit, used in group_limits(root))])


def oom_kills() -> int:
    """The number of processes that the kernel has killed for want of memory since its start."""
    return _entry(Path("/proc/vmstat"), "oom_kill")


def group_limits(root: Path = ROOT) -> Iterator[tuple[int, int]]:
    """(limit, bytes in use) of our memory control groups that have a limit, up to the outermost.

    File pages that the kernel can drop at once are not in use.
    """
    for folder, (limit, usage, inactive) in _groups(root):
        values = [_number(folder / limit), _number(folder / usage)]
        droppable = _entry(folder / "memory.stat", inactive)
        if values[0] is not None and values[1] is not None:
            yield values[0], values[1] - droppable


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


def _groups(root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The folders of our control groups, innermost first, with the names of their files."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for number, controllers, path in (line.split(":", 2) for line in lines):
        if number == "0":
            mount, names = root / "sys/fs/cgroup", V2
        elif "memory" in controllers.split(","):
            mount, names = root / "sys/fs/cgroup/memory", V1
        else:
            continue
        folder = mount / path.lstrip("/")
        while folder != mount:
            yield folder, names
            folder = folder.parent
        yield mount, names


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, as for ``max``."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _entry(path: Path, name: str) -> int:
    """The number after ``name`` in a file with a name and a number per line; 0 where it is not."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0
