# ruff: noqa: E501  # programs, one line each
"""The sandbox contains two hundred hostile programs, and judges the honest ones beside them."""

import itertools
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hostile import programs

from conftest import BACKEND, needs_bubblewrap
from leyden.errors import ConfigError
from leyden.evals.grading import code_backend
from leyden.evals.programs import expect, grade_program
from leyden.evals.verdict import RIGHT, WRONG
from leyden.recipe.benchmarks import Evaluate
from leyden.sandbox import client, selftest
from leyden.sandbox.backends import Backend, bare, python
from leyden.sandbox.client import Ended, Limits, Sandbox
from leyden.sandbox.memory import free_memory, memory_is_full

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
    computed = Sandbox(BACKEND)
    yield computed
    computed.close()


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Things that programs must not reach: a file, a folder, a home, a port, an environment variable."""
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
    """The commands of all processes that belong to a sandbox."""
    computed = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"nursery.main()" in command:
            computed.add(folder.name)
    return computed


@needs_bubblewrap
def test_two_hundred_hostile_programs_are_contained(sandbox, places):
    """Honest and mistaken programs stand between the hostile ones, and all are judged correctly."""
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
            computed = grade_program(TESTS, MISTAKEN, sandbox, TIGHT)
            assert computed.why == "AssertionError (line 2 of the tests: assert add(1, 2) == 3)", (
                name
            )
    sandbox.close()
    deadline = time.monotonic() + 5
    while processes_of_sandboxes() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of_sandboxes() - before == set()


@needs_bubblewrap
def test_a_hostile_program_does_not_reach_the_sandbox_beside_it():
    """Of two sandboxes one is attacked, and the other must go on judging correctly."""
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
    assert not isinstance(BACKEND, str)
    assert selftest.failures(BACKEND) == []


@needs_bubblewrap
def test_a_busy_moment_does_not_fail_the_self_test(monkeypatch):
    """Every probe is late once, as beside a neighbour that takes all processors."""
    assert not isinstance(BACKEND, str)
    late: set[str] = set()
    real = Sandbox.run

    def run(self, job, limits):
        if job["program"] not in late:
            late.add(job["program"])
            return Ended("wall")
        return real(self, job, limits)

    monkeypatch.setattr(Sandbox, "run", run)
    assert selftest.failures(BACKEND) == []


def test_the_self_test_sees_that_nothing_contains_and_does_nothing_rough_there():
    """Limits alone contain nothing, and the self-test says so. Its rough probes are then not run."""
    computed = selftest.failures(bare())
    for what in ("other processes", "files of the host", "write outside"):
        assert any(what in sentence for sentence in computed)
    assert not any("memory" in sentence or "stopped" in sentence for sentence in computed)


def test_code_is_refused_where_no_sandbox_works_unless_allowed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no sandbox works here") as raised:
        code_backend(Evaluate())
    assert "bwrap is not installed" in str(raised.value)
    assert "allow_unsandboxed_code" in raised.value.hint
    assert code_backend(Evaluate(allow_unsandboxed_code=True)).name == "none"


def test_a_sandbox_that_leaks_is_not_used(tmp_path, monkeypatch):
    """The self-test notices a bwrap that contains nothing."""
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
        assert not isinstance(backend, str)
        sandbox = Sandbox(backend)
        try:
            assert grade_program(TESTS, HONEST, sandbox, TIGHT).outcome == RIGHT
            loop, patient = HONEST + "while True: pass", replace(TIGHT, wall_seconds=20.0)
            assert grade_program(TESTS, loop, sandbox, patient).why == "out of CPU time (1 s)"
            assert grade_program(TESTS, HONEST, sandbox, TIGHT).outcome == RIGHT
        finally:
            sandbox.close()


HONEST_SCRIPTS = {
    "import multiprocessing\ndef f(x): return x * x\n"
    "print(sum(multiprocessing.Pool(2).map(f, range(4))))": "14",
    "import atexit\natexit.register(lambda: print('bye'))\nprint('hi')": "hi bye",
    "import sys\nout = sys.stdout\nout.write('x')\nsys.exit(0)": "x",
    "open('/dev/stdout', 'w').write(open('/dev/stdin').read())": "given",
    "print(open(0).read().strip(), end='')\nexit()": "given",
    "import sys\nprint(len(sys.argv), sys.stdin.readline())": "1 given",
    "from concurrent.futures import ThreadPoolExecutor\n"
    "print(sum(ThreadPoolExecutor(32).map(int, '123')))": "6",
    "import sys\nsys.setrecursionlimit(10**6)\n"
    "def f(n): return n and 1 + f(n - 1)\nprint(f(50000))": "50000",
    "import threading\nthreading.stack_size(2**27)\n"
    "threading.Thread(target=lambda: print(5)).start()": "5",
    "import inspect\ndef f(): pass\nprint(inspect.getsource(f).strip())": "def f(): pass",
    "import asyncio\nasync def f(): print('a')\nasyncio.run(f())": "a",
    "import tempfile, sqlite3\nwith tempfile.NamedTemporaryFile() as file:\n"
    "    print(sqlite3.connect(file.name).execute('select 6 * 7').fetchone()[0])": "42",
    "import numpy\nprint(int(numpy.arange(5).sum()))": "10",
    "print(10 ** 5000 % 97)": str(10**5000 % 97),
    "print('x' * 10**6)": "x" * 10**6,
}


@needs_bubblewrap
@pytest.mark.parametrize("program", HONEST_SCRIPTS, ids=lambda p: p[:40].replace("\n", "; "))
def test_honest_programs_find_what_they_expect(program, sandbox):
    ended = sandbox.run({"kind": "script", "program": program, "stdin": "given\n"}, Limits())
    assert (ended.how, " ".join(ended.output.split())) == ("done", HONEST_SCRIPTS[program]), ended


LEAVES = {
    "a folder nobody may open": "import os\nos.makedirs('/tmp/a/b')\nos.chmod('/tmp/a', 0)",
    "five thousand files": "for i in range(5000): open(f'/tmp/{i}', 'w').close()",
    "a locked /tmp": "import os\ntry: os.chmod('/tmp', 0o400)\nexcept OSError: pass",
    "deep folders": "import os\nfor _ in range(3000):\n    os.mkdir('d'); os.chdir('d')",
    "orphans": "import os, time\nfor _ in range(5):\n    if os.fork() == 0:\n        "
    "os.setsid()\n        time.sleep(99)",
    "limits of its parent": "import os, resource\ntry:\n    resource.prlimit(os.getppid(), "
    "resource.RLIMIT_FSIZE, (0, 0))\nexcept OSError: pass",
    "shared memory": "import mmap\ntry: mmap.mmap(-1, 2**28).write(b'x' * 2**28)\n"
    "except OSError: pass",
    "a bound socket": "import socket\ns = socket.socket(socket.AF_UNIX)\ns.bind('\\0name')",
    "a broken module": "import random, math\nrandom.random = math.sqrt = None",
}


@needs_bubblewrap
@pytest.mark.parametrize("left", LEAVES)
def test_the_next_program_finds_nothing_of_the_last(left, sandbox):
    sandbox.run({"kind": "script", "program": LEAVES[left]}, Limits())
    look = "import math, os, random, socket\ns = socket.socket(socket.AF_UNIX)\n"
    look += "s.bind('\\0name')\nopen('/tmp/own', 'w').write(str(random.random()))\n"
    look += "seen = [p for p in os.listdir('/proc') if p.isdigit()]\n"
    look += "print(os.listdir('/tmp'), len(seen), math.sqrt(4))"
    ended = sandbox.run({"kind": "script", "program": look}, Limits())
    assert (ended.how, ended.output) == ("done", "['own'] 2 2.0\n"), ended


@needs_bubblewrap
def test_time_and_memory_count_over_all_processes(sandbox):
    limits = Limits(cpu_seconds=1, wall_seconds=20.0, memory_bytes=128 * 2**20)
    two = "import os\nos.fork()\nwhile True: pass"
    assert sandbox.run({"kind": "script", "program": two}, limits).how == "cpu"
    held = "import os, time\nos.fork() or os.fork()\nx = bytearray(b'x') * (60 * 2**20)\n"
    assert (
        sandbox.run({"kind": "script", "program": held + "time.sleep(60)"}, limits).how == "memory"
    )
    caught = "import signal\nsignal.signal(signal.SIGXCPU, lambda *a: None)\nwhile True: pass"
    ended = sandbox.run({"kind": "script", "program": caught}, limits)
    assert ended.how == "cpu"
    assert ended.cpu_seconds < 1.5


@needs_bubblewrap
@pytest.mark.parametrize(("kills", "how"), [(0, "signal 9"), (1, "machine")])
def test_a_program_that_the_kernel_killed_for_memory_is_told_from_one_that_killed_itself(
    sandbox, monkeypatch, kills, how
):
    counts = itertools.count(0, kills)
    monkeypatch.setattr(client, "oom_kills", lambda: next(counts))
    program = "import os\nos.kill(os.getpid(), 9)"
    assert sandbox.run({"kind": "script", "program": program}, Limits()).how == how


V1_FILES = {
    "memory.limit_in_bytes": "1000",
    "memory.usage_in_bytes": "{used}",
    "memory.stat": "cache 5\ntotal_inactive_file {dropped}\n",
}
V2_FILES = {
    "memory.max": "1000",
    "memory.current": "{used}",
    "memory.stat": "anon 5\ninactive_file {dropped}\n",
}


@pytest.mark.parametrize(("used", "dropped", "full"), [(990, 0, True), (990, 500, False)])
@pytest.mark.parametrize(
    ("line", "folder", "files"),
    [
        ("5:cpu,memory:/job/step", "sys/fs/cgroup/memory/job", V1_FILES),
        ("0::/job/step", "sys/fs/cgroup/job", V2_FILES),
        ("0::/", "sys/fs/cgroup", V2_FILES),  # as a container sees its own
    ],
)
def test_a_full_container_is_seen(tmp_path, line, folder, files, used, dropped, full):
    """Also where the limit is that of an outer group; file pages can be dropped."""
    group = tmp_path / folder
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"7:pids:/other\n{line}\n")
    (group / "step").mkdir(parents=True)
    (group / "step/memory.max").write_text("max")
    for name, text in files.items():
        (group / name).write_text(text.format(used=used, dropped=dropped))
    assert memory_is_full(tmp_path) == full
    (tmp_path / "proc/meminfo").write_text("MemTotal: 64 kB\nMemAvailable:      32 kB\n")
    assert free_memory(tmp_path) == 1000 - (used - dropped)  # and not the machine's 32 KiB


FORGED = [
    "[5]", "[[]]", "[['value']]", "[['error']]", "[['error', {}]]", "[None]", "[{}]", "{}", "5",
    "[['value', ['int', 'zz']]]", "[['value', ['set', [[]]]]]", "'x'", "[['value', ['list', 5]]]",
]  # fmt: skip


@needs_bubblewrap
@pytest.mark.parametrize("result", FORGED)
def test_a_report_that_a_program_made_up_is_wrong_and_never_a_crash(result, sandbox):
    """The program can read the token. Its forged report must still be judged wrong."""
    program = f"""
import json, os, sys
frame = sys._getframe()
while "token" not in frame.f_locals:
    frame = frame.f_back
os.write(3, (frame.f_locals["token"] + json.dumps([{result}, ""])).encode())
os._exit(0)
"""
    tests = {"kind": "calls", "function": "add", "cases": [[[1, 2], 3]]}
    verdict = grade_program(tests, f"```python\n{program}```", sandbox, TIGHT)
    assert verdict.outcome == WRONG, verdict


@needs_bubblewrap
@pytest.mark.parametrize("answer", ["10 ** 5000", "nested(800)", "float('nan')", "'\\ud800'"])
def test_odd_results_are_wrong_and_never_a_crash(answer, sandbox):
    program = f"def nested(n): return [nested(n - 1)] if n else []\ndef add(a, b): return {answer}"
    for tests in (
        {"kind": "calls", "function": "add", "cases": [[[1, 2], 3]]},
        expect(
            {"kind": "compare", "function": "add", "solution": HONEST, "atol": 0, "task": "t",
             "calls": [["list", [1, 2]]]}, sandbox, TIGHT,
        ),
    ):  # fmt: skip
        verdict = grade_program(tests, f"```python\n{program}\n```", sandbox, TIGHT)
        assert verdict.outcome == WRONG, verdict


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become an ordinary user")
@needs_bubblewrap
def test_an_ordinary_user_is_contained_as_well(tmp_path):
    """An ordinary user enters bubblewrap by a user namespace, with a Python that it may read."""
    home, source = tmp_path / "python", tmp_path / "source"
    library = Path(sys.base_prefix) / "lib" / python().name
    left_out = shutil.ignore_patterns("test", "site-packages", "idlelib", "tkinter", "__pycache__")
    shutil.copytree(library, home / "lib" / library.name, ignore=left_out, symlinks=True)
    (home / "bin").mkdir()
    shutil.copy(python().resolve(), home / "bin" / python().name)
    shutil.copytree(Path(selftest.__file__).parent, source / "leyden" / "sandbox")
    shutil.copy(Path(selftest.__file__).parents[1] / "errors.py", source / "leyden")
    shutil.copytree(Path(__file__).parent, source / "tests")
    for folder in [tmp_path, *tmp_path.parents[:3]]:
        folder.chmod(folder.stat().st_mode | 0o055)
    code = (
        "import sys; sys.path[:0] = ['tests']; import hostile; from leyden.sandbox import selftest\n"
        "from leyden.sandbox.backends import bubblewrap; from leyden.sandbox.client import *\n"
        "found = [f for f in selftest.failures(bubblewrap()) if 'numpy' not in f]\n"
        "box, limits = Sandbox(bubblewrap()), Limits(cpu_seconds=1, wall_seconds=1.5)\n"
        "tests = 'assert escaped == [], escaped\\nassert add(1, 2) == 3'\n"
        "bad = hostile.programs(secret='/x', tmp='/y', home='/root', port=9, token='q-z')\n"
        "for name, program in bad[::5]:\n"
        "    ended = box.run({'kind': 'asserts', 'program': program, 'tests': tests}, limits)\n"
        "    if 'escaped' in ended.error: found.append(name + ended.error)\n"
        "    ended = box.run({'kind': 'asserts', 'program': hostile.HEAD, 'tests': tests}, Limits())\n"
        "    if ended.how != 'done': found.append(f'after {name}: {ended}')\n"
        "print(found)\n"
    )
    message = subprocess.run(
        [home / "bin" / python().name, "-c", code], capture_output=True, text=True, user=65534,
        group=65534, extra_groups=[], cwd=source, env={"PATH": "/usr/bin"}, check=False,
    )  # fmt: skip
    assert (message.stdout, message.stderr) == ("[]\n", "")


def test_where_programs_cannot_run_none_is_judged(monkeypatch):
    """As on macOS, which lacks the system calls of the limits: no correct program may be wrong."""
    missing = replace(bare(), command=(bare().command[0], "-c", "import os; os.no_such_call()"))
    monkeypatch.setattr(selftest, "bare", lambda: missing)
    monkeypatch.setattr(selftest, "bubblewrap", lambda: "bubblewrap needs Linux")
    with pytest.raises(ConfigError, match="do not run here without a sandbox either"):
        selftest.sound_backend("no-such-image", memory_mb=1, allow_bare=True)
