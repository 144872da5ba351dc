"""Benchmarks that a command line names: known ones, and files of the user's."""

import re
from pathlib import Path

from leyden.data.tables import Row, read_rows
from leyden.errors import ConfigError
from leyden.recipe.benchmarks import known_benchmarks


def benchmark_values(text: str) -> Row:
    """The fields of a benchmark that a command line calls ``NAME``, ``NAME=FILE`` or ``FILE``.

    NAME is a known benchmark. FILE alone is JSON lines with ``prompt``, and ``answer`` or
    ``tests``.
    """
    name, equals, file = text.rpartition("=")
    if equals and name in known_benchmarks():
        return {"name": name, "problems": {"file": file}}
    if equals and Path(file).is_file():
        return {"name": name, **own_values(Path(file))}
    if text in known_benchmarks():
        return {"name": text}
    path = Path(text)
    if not path.is_file():
        raise ConfigError(
            f"{text}: neither a known benchmark nor a file",
            hint=f"known are {', '.join(known_benchmarks())}; or give FILE, or NAME=FILE",
        )
    stem = re.sub(r"[^a-z0-9_-]+", "-", path.name.partition(".")[0].lower()).strip("-_")
    return {"name": stem or "own", **own_values(path)}


def own_values(path: Path) -> Row:
    """The fields of a benchmark for a user's own file, by those of its first row."""
    _, row = next(iter(read_rows(path)), (0, {}))
    problems: Row = {
        "file": str(path),
        "prompt_field": ("prompt", "question", "problem"),
    }
    if "id" in row:
        problems["id_field"] = "id"
    if "answer" in row:
        return {"problems": problems | {"answer_field": "answer"}}
    return {"grader": "code", "problems": problems}
