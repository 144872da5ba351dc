"""Before any program of a model runs: programs of ours that try to get out, and must not."""

import contextlib
import os
import secrets
import socket
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from leyden.errors import ConfigError
from leyden.sandbox.backends import Backend, bare, bubblewrap, container
from leyden.sandbox.client import Ended, Limits, Sandbox

LATE_SECONDS = 3.0
GROUPS = ((0, 1, 2, 3, 4, 10, 11, 12), (5, 7), (6, 8), (9,))  # probes by number, side by side
QUICK = Limits(cpu_seconds=2, wall_seconds=2.5, memory_bytes=256 * 2**20, processes=16)


@dataclass(frozen=True)
class Probe:
    """``program`` runs as a script; ``passes`` judges how it ended; ``fails`` says if not."""

    fails: str
    program: str
    passes: Callable[[Ended], bool]
    limits: Limits = QUICK


def failures(backend: Backend) -> list[str]:
    """What the sandbox does not contain, or does not allow; empty when it is sound."""
    with _bait() as bait, ThreadPoolExecutor(len(GROUPS)) as threads:
        probes = _probes(*bait)
        groups = [[probes[i] for i in group] for group in GROUPS]
        futures = [threads.submit(_try, backend, slot, group) for slot, group in enumerate(groups)]
        found = [future.result() for future in futures]
        return [sentence for sentences in found for sentence in sentences]


def _try(backend: Backend, slot: int, probes: list[Probe]) -> list[str]:
    """One sandbox, one probe after the other."""
    found, sandbox = [], Sandbox(backend, slot)
    try:
        for probe in probes:
            program, began = textwrap.dedent(probe.program), time.monotonic()
            ended = sandbox.run({"kind": "script", "program": program}, probe.limits)
            late = time.monotonic() - began > probe.limits.wall_seconds + LATE_SECONDS
            if late or not probe.passes(ended):
                found.append(f"{probe.fails} ({_shown(ended)})")
    finally:
        sandbox.close()
    return found


def sound_backend(image: str, *, memory_mb: int, allow_bare: bool) -> Backend:
    """The first backend that passes its self-test: bubblewrap, docker, podman, or none if allowed.

    Raises ConfigError that says of each why not.
    """
    reasons = []
    for backend in (bubblewrap(), *container(image, memory_bytes=memory_mb << 20)):
        if isinstance(backend, str):
            reasons.append(backend)
        elif found := failures(backend):
            reasons.append(f"{backend.name}: {found[0]}")
        else:
            return backend
    if allow_bare:
        return bare()
    raise ConfigError(
        f"no sandbox works here, and code of models runs in nothing less: {'; '.join(reasons)}",
        hint="install bubblewrap (apt install bubblewrap); or, in a machine that is thrown away, "
        "evaluate.allow_unsandboxed_code = true",
    )


def _shown(ended: Ended) -> str:
    return f"{ended.how}: {(ended.error or ended.output).strip()[:100]!r}"


@contextlib.contextmanager
def _bait() -> Iterator[tuple[str, str, int]]:
    """A secret in a file and in the environment, and an open port: (secret, file, port)."""
    secret = secrets.token_hex(8)
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        path = Path(folder) / "bait"
        path.write_text(secret)
        path.chmod(0o644)
        Path(folder).chmod(0o755)
        os.environ["LEYDEN_BAIT"] = secret
        try:
            yield secret, str(path), server.getsockname()[1]
        finally:
            del os.environ["LEYDEN_BAIT"]


def _probes(secret: str, path: str, port: int) -> list[Probe]:
    def prints(text: str) -> Callable[[Ended], bool]:
        return lambda ended: ended.how == "done" and ended.output.strip() == text

    def stopped(ended: Ended) -> bool:
        return ended.how in ("cpu", "wall")

    honest = "import threading, math\nt = threading.Thread(target=print, args=(math.comb(9, 2),))\n"
    honest += "t.start(); t.join()"
    return [
        Probe("an honest program does not run", honest, prints("36")),
        Probe("the network can be reached", NETWORK % port, prints("closed")),
        Probe("files of the host can be read", FILES % path, prints("hidden")),
        Probe("the environment can be read", ENVIRONMENTS % secret, prints("hidden")),
        Probe("a program can write outside /tmp", WRITING, prints("none")),
        Probe("a program that ignores signals is not stopped", STUBBORN, stopped),
        Probe("a sleeping program is not stopped", "import time; time.sleep(60)", stopped),
        Probe(
            "processes are not limited",
            FORKS,
            lambda ended: ended.how == "done" and 0 < int(ended.output or 0) <= QUICK.processes,
        ),
        Probe(
            "memory is not limited",
            "held = []\nwhile True: held.append(bytearray(2**22))",
            lambda ended: ended.how == "memory" or "MemoryError" in ended.error,
        ),
        Probe(
            "memory over several processes is not limited",
            MEMORY_OF_MANY,
            lambda ended: ended.how == "memory",
            replace(QUICK, cpu_seconds=5, wall_seconds=8.0),
        ),
        Probe(
            "output is not limited",
            "import sys\nwhile True: sys.stdout.write('x' * 10**6)",
            lambda ended: ended.how == "output",
        ),
        Probe(
            "a program that kills everything is not survived",
            "import os, signal\nos.kill(-1, signal.SIGKILL)",
            lambda ended: ended.how != "wall",
        ),
        Probe("after it, an honest program does not run", honest, prints("36")),
    ]


NETWORK = """
import socket
reached = "closed"
for place in (("127.0.0.1", %d), ("1.1.1.1", 53), ("8.8.8.8", 53)):
    try:
        socket.create_connection(place, timeout=0.5)
        reached = "open"
    except OSError:
        pass
print(reached)
"""
FILES = """
import os
found = []
for path in (%r, "/etc/passwd", "/etc/shadow", "/home", "/root", "/var/log"):
    try:
        if os.listdir(path) if os.path.isdir(path) else open(path, "rb").read():
            found.append(path)
    except OSError:
        pass
print(found or "hidden")
"""
ENVIRONMENTS = """
import glob, os
seen = [str(os.environ)]
for path in glob.glob("/proc/*/environ"):
    try:
        seen.append(open(path, errors="replace").read())
    except OSError:
        pass
print("open" if %r in "".join(seen) else "hidden")
"""
WRITING = """
import os, sys
done = []
for folder in ("/", "/usr/lib", "/leyden", "/packages", "/proc/sys/kernel", "/dev", sys.prefix):
    try:
        open(os.path.join(folder, "written"), "w").close()
        done.append(folder)
    except OSError:
        pass
print(done or "none")
"""
STUBBORN = """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
"""
FORKS = """
import os, time
count = 0
try:
    while count < 200:
        if os.fork() == 0:
            time.sleep(30)
        count += 1
except OSError:
    pass
print(count)
"""
MEMORY_OF_MANY = """
import os, time
for child in range(4):
    if os.fork() == 0:
        break
held = bytearray(b"x") * (100 * 2**20)
time.sleep(30)
"""
