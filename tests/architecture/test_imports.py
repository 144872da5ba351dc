"""The house: imports point one way, heavy libraries have one home, light commands stay light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "leyden"
# An arrow: what stands left of it may import what stands right of it, and nothing else may.
LINES = """
cli -> pipeline, report -> stages -> monitor -> evals -> inference, train
    -> run -> engines, distributed -> models -> data -> store, sandbox
    -> recipe, provenance, telemetry -> typed_json -> files -> errors, losses, logprobs
"""
LAYERS = [set(re.split(r"[,\s]+", line.strip())) for line in reversed(LINES.split("->"))]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
FILES = sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Dotted names of every module imported anywhere in the file."""
    return imported_by(path.read_text())


def imported_by(code: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "leyden":
            names |= {f"leyden.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def forbidden(mine: str, names: set[str]) -> list[str]:
    """The imports among ``names`` that the room ``mine`` may not make."""
    others = {name.split(".")[1] for name in names if name.startswith("leyden.")}
    wrong = [o for o in others if o != mine and LEVEL.get(o, 99) >= LEVEL[mine]]
    if mine in APART:
        wrong += [other for other in others if other in APART and other != mine]
    return wrong


APART = {"train", "engines"}  # they meet in stages and inference alone


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_imports_point_one_way(path):
    if path.name == "__init__.py" and path.parent == SOURCE:
        return  # the public names, imported lazily
    assert forbidden(room(path), imports(path)) == []
    if room(path) == "stages":
        assert not any(name.startswith("leyden.stages") for name in imports(path))


@pytest.mark.parametrize(
    ("mine", "code"),
    [
        ("store", "from leyden import pipeline"),
        ("store", "def f():\n    import leyden.cli.main"),
        ("recipe", "from leyden.provenance import records"),
        ("data", "from leyden import load_recipe"),
        ("train", "import leyden.engines.base"),
        ("engines", "from leyden.train.student import StudentLM"),
    ],
)
def test_an_arrow_that_points_elsewhere_is_noticed(mine, code):
    assert forbidden(mine, imported_by(code))


HOMES = {
    "torch.distributed": {"distributed"},
    "rich": {"cli/screen.py", "cli/tables.py"},
    "tyro": {"cli/main.py", "cli/commands.py"},
    "jinja2": {"report/page.py"},
    "pyarrow": {"store", "data/tables.py"},
    "pebble": {"evals/grade_workers.py"},
    "math_verify": {"evals/maths.py"},
}


@pytest.mark.parametrize("library", HOMES)
def test_a_library_has_one_home(library):
    for path in FILES:
        used = any(n == library or n.startswith(f"{library}.") for n in imports(path))
        where = path.relative_to(SOURCE).as_posix()
        assert not used or any(where.startswith(home) for home in HOMES[library]), where


def test_losses_import_torch_and_nothing_of_ours():
    assert imports(SOURCE / "losses.py") == {"torch"}


def test_what_runs_inside_a_sandbox_needs_nothing_but_python():
    """The files are copied into the sandbox one by one, so they import the standard library, numpy
    if it is there, and each other."""
    for path in (SOURCE / "sandbox" / "inside").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module in sys.stdlib_module_names, path
            elif isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
                assert names <= sys.stdlib_module_names | {"numpy"}, path


def test_only_entry_points_print():
    for path in FILES:
        called = {
            n.func.id
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        assert "print" not in called or room(path) == "cli", path


@pytest.mark.parametrize(
    "code",
    [
        "import leyden.cli.main",
        "import leyden.store.reader, leyden.store.writer",
        "import leyden.monitor.status, leyden.provenance.records",
        "import leyden.pipeline.pipeline, leyden.pipeline.verify",
        "import leyden; leyden.load_recipe, leyden.open_store, leyden.identify_model",
    ],
)
def test_light_things_do_not_import_torch(code):
    check = f"{code}\nimport sys\nassert not {{'torch', 'transformers'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_files_and_functions_stay_small():
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 400, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"
