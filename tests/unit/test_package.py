"""The installed package: metadata, version, pipes, public names, other systems."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import leyden
from conftest import ROOT
from leyden.cli.main import run
from leyden.distributed.parent import PARENT
from leyden.errors import StoreError
from leyden.run.environment import usable_cpus
from leyden.run.lock import lock

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
BESIDE = {"frames", "guard"}  # files that stand beside a program of another interpreter
PROGRAM = [sys.executable, "-m", "leyden.cli.main"]


def imported() -> set[str]:
    """Top-level names of all imports of the package that are not in the standard library."""
    names = set()
    for path in (ROOT / "src/leyden").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"leyden"} - BESIDE


def test_every_imported_package_is_declared():
    extras = [d for name in ("ray", "vllm") for d in PROJECT["optional-dependencies"][name]]
    every = [*PROJECT["dependencies"], *extras]
    declared = {re.split(r"[<>=]", d)[0].lower().replace("_", "-") for d in every}
    owners = importlib.metadata.packages_distributions()
    for name in imported():
        # An extra that is not installed here goes by its name.
        distributions = {owner.lower().replace("_", "-") for owner in owners.get(name, [name])}
        assert distributions & declared, f"{name} is imported, and {distributions} not declared"


def test_links_and_picture_work_from_the_package_page():
    """The package page has no files beside its text, so every link needs a whole address."""
    text = (ROOT / "README.md").read_text()
    hooks = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]
    for change in hooks["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) > 5
    assert [t for t in targets if not t.startswith(("https://", "#"))] == []


def test_public_names_are_the_same_at_run_time_and_for_type_checkers():
    tree = ast.parse((ROOT / "src/leyden/__init__.py").read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == leyden._PUBLIC and sorted(seen) == sorted(leyden.__all__)
    for name in seen:
        assert getattr(leyden, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = leyden.nothing  # pyrefly: ignore[missing-attribute]


def test_a_misspelt_command_is_named(capsys):
    assert run(["stauts"]) == 2  # codespell:ignore
    assert capsys.readouterr().err.endswith("hint: did you mean `leyden status`?\n")


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"leyden {PROJECT['version']}\n"
    assert leyden.__version__ == PROJECT["version"]


@pytest.mark.parametrize("arguments", [["--help"], ["config", "--schema"]], ids=" ".join)
def test_a_reader_that_has_seen_enough_is_no_error(arguments):
    """In `leyden ... | head` the reader closes the pipe, and leyden ends quietly."""
    reading, writing = os.pipe()
    process = subprocess.Popen([*PROGRAM, *arguments], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    os.close(reading)
    _, errors = process.communicate(timeout=60)
    assert errors == b"" and process.returncode == 0


def test_a_lock_is_held_once_and_given_back(tmp_path):
    with (
        lock(tmp_path),
        pytest.raises(StoreError, match="another leyden process"),
        lock(tmp_path),
    ):
        pass
    with lock(tmp_path):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a child of its parent's end")
@pytest.mark.parametrize(("alive", "code"), [(True, 0), (False, -9)])
def test_a_child_whose_parent_has_ended_already_ends_as_well(alive, code):
    """Its parent is another one by the time it looks, and the kernel would never tell it."""
    program = "from leyden.distributed.parent import die_with_parent; die_with_parent()"
    environment = {**os.environ, PARENT: str(os.getpid() if alive else 1)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert done.returncode == code


def test_cpus_are_counted_where_the_system_does_not_say_which_we_may_use(monkeypatch):
    assert usable_cpus() == len(os.sched_getaffinity(0))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert usable_cpus() == os.cpu_count()


def test_what_runs_elsewhere_is_typed_for_there():
    """No macOS or Windows is at hand, so a type checker reads the code for them."""
    portable = ["pipeline", "run", "store", "files.py", "evals/maths.py", "evals/grade_workers.py"]
    for system in ("darwin", "win32"):
        paths = [str(ROOT / "src/leyden" / name) for name in portable]
        checker = str(Path(sys.executable).with_name("pyrefly"))
        command = [checker, "check", "--python-platform", system, *paths]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        unknown = [line for line in done.stdout.splitlines() if "missing-attribute" in line]
        assert unknown == [], system
