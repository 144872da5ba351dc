"""The sandbox holds two hundred hostile programs, and judges the honest ones beside them."""

import os
import shutil
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hostile import programs

from leyden.benchmark import Evaluate
from leyden.errors import ConfigError
from leyden.evals.grading import code_backend
from leyden.evals.programs import grade_program
from leyden.evals.verdict import RIGHT
from leyden.sandbox import selftest
from leyden.sandbox.backends import Backend, bare, bubblewrap
from leyden.sandbox.client import Limits, Sandbox

BACKEND = bubblewrap()
needs_bubblewrap = pytest.mark.skipif(
    isinstance(BACKEND, str), reason=f"no bubblewrap here: {BACKEND}"
)
TIGHT = Limits(cpu_seconds=1, wall_seconds=1.5, memory_bytes=256 * 2**20, processes=24)
TESTS = {
    "kind": "asserts",
    "function": "add",
    "tests": "assert escaped == [], escaped\nassert add(1, 2) == 3\nassert add('a', 'b') == 'ab'",
}
HONEST = "escaped = []\ndef add(a, b):\n    return a + b\n"
MISTAKEN = "escaped = []\ndef add(a, b):\n    return a - b\n"


@pytest.fixture
def sandbox():
    assert isinstance(BACKEND, Backend)
    found = Sandbox(BACKEND)
    yield found
    found.close()


@pytest.fixture
def places(tmp_path, monkeypatch):
    """What must not be reached: a file, a folder, a home, a port and a word in the environment."""
    secret = tmp_path / "secret"
    secret.write_text("never read")
    tmp_path.chmod(0o777)
    secret.chmod(0o666)
    monkeypatch.setenv("LEYDEN_SECRET", "5f0e1c77")
    with socket.create_server(("127.0.0.1", 0)) as server:
        visits = []
        server.settimeout(0.2)
        threading.Thread(target=_count_visits, args=(server, visits), daemon=True).start()
        yield {
            "secret": str(secret),
            "tmp": str(tmp_path),
            "home": str(Path.home()),
            "port": server.getsockname()[1],
            "token": "5f0e1c77",
        }
    assert visits == []
    assert secret.read_text() == "never read"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["secret"]


def _count_visits(server, visits):
    while server.fileno() != -1:
        try:
            visits.append(server.accept())
        except TimeoutError:
            continue
        except OSError:
            return


def processes_of_sandboxes() -> set[str]:
    """Commands of every process that has our sandbox's user, or is a nursery."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"nursery.main()" in command:
            found.add(folder.name)
    return found


@needs_bubblewrap
def test_two_hundred_hostile_programs_are_contained(sandbox, places):
    """Every fourth program beside them is honest, every seventh mistaken; both are judged right."""
    hostile, before = programs(**places), processes_of_sandboxes()
    assert len(hostile) >= 200
    for number, (name, program) in enumerate(hostile):
        began = time.monotonic()
        verdict = grade_program(TESTS, f"```python\n{program}```", sandbox, TIGHT)
        assert time.monotonic() - began < TIGHT.wall_seconds + 3, name
        assert "escaped" not in verdict.why, (name, verdict)
        if name.startswith(
            ("fork bomb: 1000000", "forged", "exit", "endless", "ignored", "memory")
        ):
            assert verdict.outcome != RIGHT, (name, verdict)
        if number % 4 == 0:
            assert grade_program(TESTS, HONEST, sandbox, TIGHT).outcome == RIGHT, name
        if number % 7 == 0:
            found = grade_program(TESTS, MISTAKEN, sandbox, TIGHT)
            assert found.why == "AssertionError (line 2 of the tests: assert add(1, 2) == 3)", name
    sandbox.close()
    deadline = time.monotonic() + 5
    while processes_of_sandboxes() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of_sandboxes() - before == set()


@needs_bubblewrap
def test_a_hostile_program_does_not_reach_the_sandbox_beside_it():
    """Two sandboxes at once: one bombed, the other must go on judging right."""
    assert isinstance(BACKEND, Backend)
    bombed, calm = Sandbox(BACKEND, 0), Sandbox(BACKEND, 1)
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    try:
        assert grade_program(TESTS, HONEST, bombed, TIGHT).outcome == RIGHT
        job = {"kind": "script", "program": bomb}
        thread = threading.Thread(target=bombed.run, args=(job, TIGHT))
        thread.start()
        for _ in range(20):
            program = f"import threading\nthreading.Thread(target=int).start()\n{HONEST}"
            assert grade_program(TESTS, program, calm, Limits()).outcome == RIGHT
        thread.join()
        assert grade_program(TESTS, HONEST, bombed, TIGHT).outcome == RIGHT
    finally:
        bombed.close()
        calm.close()


@needs_bubblewrap
def test_the_self_test_passes_here():
    assert selftest.failures(BACKEND) == []


def test_the_self_test_sees_that_nothing_contains_and_does_nothing_rough_there():
    """With limits alone all is open, which is said; what would then kill and fill is not run."""
    found = selftest.failures(bare())
    for what in ("other processes", "the network", "files of the host", "write outside"):
        assert any(what in sentence for sentence in found)
    assert not any("memory" in sentence or "stopped" in sentence for sentence in found)


def test_code_is_refused_where_no_sandbox_works_unless_allowed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no sandbox works here") as raised:
        code_backend(Evaluate())
    assert "bwrap is not installed" in str(raised.value)
    assert "allow_unsandboxed_code" in raised.value.hint
    assert code_backend(Evaluate(allow_unsandboxed_code=True)).name == "none"


def test_a_sandbox_that_leaks_is_not_used(tmp_path, monkeypatch):
    """A bwrap that contains nothing is found out by the self-test."""
    fake = tmp_path / "bwrap"
    fake.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo bubblewrap 9.9; exit; fi\n'
        'for last; do if [ "$seen" ]; then set -- "$@"; fi; done\n'
        f"shift $(($# - 3)); exec {bare().command[0]} -P -s -S -B -c "
        f'"{bare().command[-2]}" {bare().command[-1]} "$2" no\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert shutil.which("bwrap") == str(fake)
    with pytest.raises(ConfigError, match="bubblewrap: other processes can be seen"):
        code_backend(Evaluate())


@needs_bubblewrap
def test_the_unsandboxed_runner_judges_alike():
    for backend in (BACKEND, bare()):
        sandbox = Sandbox(backend)
        try:
            assert grade_program(TESTS, HONEST, sandbox, TIGHT).outcome == RIGHT
            loop, patient = HONEST + "while True: pass", replace(TIGHT, wall_seconds=20.0)
            assert grade_program(TESTS, loop, sandbox, patient).why == "out of CPU time (1 s)"
            assert grade_program(TESTS, HONEST, sandbox, TIGHT).outcome == RIGHT
        finally:
            sandbox.close()
