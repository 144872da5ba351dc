"""Test a sandbox before any model's program runs: programs of ours try to get out."""

import contextlib
import logging
import os
import secrets
import socket
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from leyden.errors import ConfigError
from leyden.sandbox.backends import Backend, bare, bubblewrap, container
from leyden.sandbox.client import Ended, Limits, Sandbox
from leyden.sandbox.memory import wait_for_memory

LATE_SECONDS = 3.0
TRIES, PATIENT_TRIES = 3, 6  # of a probe; and more where the machine ended it
PAUSE_SECONDS = 3.0
MACHINE = "(machine:"  # of a problem that the machine caused
QUICK = Limits(cpu_seconds=2, wall_seconds=2.5, memory_bytes=256 * 2**20, processes=16)


@dataclass(frozen=True)
class Probe:
    """One attempt. ``program`` runs as a script, ``passes`` judges how it ended, and ``fails`` is
    the sentence for a failure."""

    fails: str
    program: str
    passes: Callable[[Ended], bool]
    limits: Limits = QUICK


def failures(backend: Backend) -> list[str]:
    """A sentence for each thing that the sandbox fails to contain, or to allow; none where it is
    sound.

    Gentle probes, which only look and touch, come first. Rough ones, such as one that kills every
    process it can, run only where all gentle ones were contained.
    """
    with _bait() as bait:
        problems = _try(backend, 0, _gentle(*bait))
    if problems:
        return problems
    groups = _rough()
    with ThreadPoolExecutor(len(groups)) as threads:
        futures = [threads.submit(_try, backend, slot, group) for slot, group in enumerate(groups)]
        return [sentence for future in futures for sentence in future.result()]


def _try(backend: Backend, slot: int, probes: list[Probe]) -> list[str]:
    """Run probes in one sandbox, one after the other.

    One that fails is tried again in a new sandbox: a busy machine may have been late, while a wall
    that is missing is missing every time.
    """
    problems, sandbox = [], Sandbox(backend, slot)
    try:
        for probe in probes:
            for number in range(TRIES + PATIENT_TRIES):
                problem = _problem(sandbox, probe)
                # What the machine did says nothing about the sandbox, so it is asked again.
                if problem is None or (number >= TRIES - 1 and MACHINE not in problem):
                    break
                sandbox.close()
                wait_for_memory()
                if MACHINE in problem:  # others hold what the probe needs, though some is left
                    time.sleep(PAUSE_SECONDS)
            if problem is not None:
                problems.append(problem)
    finally:
        sandbox.close()
    return problems


def _problem(sandbox: Sandbox, probe: Probe) -> str | None:
    """A sentence where the sandbox fails the probe."""
    program, began = textwrap.dedent(probe.program), time.monotonic()
    ended = sandbox.run({"kind": "script", "program": program}, probe.limits)
    late = time.monotonic() - began > probe.limits.wall_seconds + LATE_SECONDS
    return f"{probe.fails} ({_shown(ended)})" if late or not probe.passes(ended) else None


def sound_backend(image: str, *, memory_mb: int, allow_bare: bool) -> Backend:
    """The first backend that passes its self-test: bubblewrap, docker, podman, or none if allowed.

    The test is run once per process. Raises ConfigError with the reason against each backend.
    """
    return _sound(image, memory_mb, allow_bare, os.environ.get("PATH", ""))


@cache
def _sound(image: str, memory_mb: int, allow_bare: bool, path: str) -> Backend:
    """The sound backend. ``path`` is where the tools are searched."""
    reasons = []
    for backend in (bubblewrap(), *container(image, memory_bytes=memory_mb << 20)):
        if isinstance(backend, str):
            reasons.append(backend)
        elif problems := failures(backend):
            reasons.append(f"{backend.name}: {problems[0]}")
        else:
            return backend
    if any(MACHINE in reason for reason in reasons):
        raise ConfigError(
            "programs cannot be graded now: the machine, or its container, is out of memory, so no "
            "sandbox could be tested",
            hint="free some memory and run the same command again; finished work is kept",
        )
    if not allow_bare:
        raise ConfigError(
            f"no sandbox works here, and code of models runs in nothing less: {'; '.join(reasons)}",
            hint="install bubblewrap (apt install bubblewrap); or, in a machine that is thrown "
            "away, evaluate.allow_unsandboxed_code = true",
        )
    return _bare(reasons)


def _bare(reasons: list[str]) -> Backend:
    """No sandbox at all, with a warning. Raises ConfigError where even that runs no programs."""
    backend = bare()
    if problems := _try(backend, 0, [_honest("an honest program does not run")]):
        raise ConfigError(
            f"programs do not run here without a sandbox either: {problems[0]}",
            hint="grade code benchmarks on Linux, which their limits need",
        )
    logging.getLogger(__name__).warning(
        "programs of models run on this machine without a sandbox, as allow_unsandboxed_code "
        "says: %s",
        "; ".join(reasons),
    )
    return backend


def _shown(ended: Ended) -> str:
    return f"{ended.how}: {(ended.error or ended.output).strip()[:100]!r}"


@contextlib.contextmanager
def _bait() -> Iterator[tuple[str, str, int]]:
    """Lay bait: a secret in a file and in the environment, and an open port."""
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


def _prints(text: str) -> Callable[[Ended], bool]:
    return lambda ended: ended.how == "done" and ended.output.strip() == text


def _honest(fails: str) -> Probe:
    return Probe(fails, HONEST, _prints("36"))


def _stopped(ended: Ended) -> bool:
    return ended.how in ("cpu", "wall")


def _gentle(secret: str, path: str, port: int) -> list[Probe]:
    return [
        _honest("an honest program does not run"),
        Probe("other processes can be seen", PROCESSES, _prints("alone")),
        Probe("the network can be reached", NETWORK % port, _prints("closed")),
        Probe("files of the host can be read", FILES % path, _prints("hidden")),
        Probe("the sandbox itself can be entered", ENTERING, _prints("closed")),
        Probe("numpy cannot be imported", NUMPY, _prints("3.0")),
        Probe("the environment can be read", ENVIRONMENTS % secret, _prints("hidden")),
        Probe("a program can write outside /tmp", WRITING, _prints("none")),
    ]


def _rough() -> list[list[Probe]]:
    """The rough probes in groups that run side by side, each in a sandbox of its own."""
    kill = "import os, signal\nos.kill(-1, signal.SIGKILL)"
    flood = "import sys\nwhile True: sys.stdout.write('x' * 10**6)"
    grow = "held = []\nwhile True: held.append(bytearray(2**22))"
    sleep = "import time; time.sleep(60)"
    patient = replace(QUICK, cpu_seconds=5, wall_seconds=8.0)
    return [
        [Probe("a program that ignores signals is not stopped", STUBBORN, _stopped)],
        [
            Probe("a sleeping program is not stopped", sleep, _stopped),
            Probe("processes are not limited", FORKS, _few_processes),
        ],
        [
            Probe("memory is not limited", grow, _out_of_memory),
            Probe("memory over processes is not limited", MANY, _out_of_memory, patient),
        ],
        [
            Probe("output is not limited", flood, lambda ended: ended.how == "output"),
            Probe("one who kills everything is not survived", kill, lambda e: e.how != "wall"),
            _honest("after it, an honest program does not run"),
        ],
    ]


def _few_processes(ended: Ended) -> bool:
    return ended.how == "done" and 0 < int(ended.output or 0) <= QUICK.processes


def _out_of_memory(ended: Ended) -> bool:
    return ended.how == "memory" or "MemoryError" in ended.error


HONEST = """
import math, threading
thread = threading.Thread(target=print, args=(math.comb(9, 2),))
thread.start()
thread.join()
"""
PROCESSES = """
import os
seen = [name for name in os.listdir("/proc") if name.isdigit()]
print("alone" if len(seen) <= 4 and os.getpid() < 1000 else len(seen))
"""
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
NUMPY = "import numpy\nprint(numpy.ones(3).sum())"  # tests of HumanEval+ and MBPP+ import it
ENTERING = """
import os
opened = []
for pid in {1, os.getppid()}:
    for name in ("mem", "fd/0", "fd/1", "environ", "cwd"):
        try:
            path = f"/proc/{pid}/{name}"
            os.readlink(path) if name == "cwd" else open(path, "rb").close()
            opened.append(path)
        except OSError:
            pass
print(opened or "closed")
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
    if os.access(folder, os.W_OK):  # writing is not tried: without walls it would succeed
        done.append(folder)
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
MANY = """
import os, time
for child in range(4):
    if os.fork() == 0:
        break
held = bytearray(b"x") * (100 * 2**20)
time.sleep(30)
"""
