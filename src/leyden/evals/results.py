"""What evaluations found: read only as their record vouches for it, and two of them compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leyden.errors import ConfigError, StoreError
from leyden.evals.statistics import paired_difference
from leyden.evals.verdict import LETTERS, RIGHT
from leyden.files import read_object
from leyden.provenance.identity import fingerprint
from leyden.provenance.records import require_record, require_same

SCORES = "scores.json"
Scores = dict[str, Any]


def read_scores(folder: Path) -> Scores:
    """``scores.json`` of a finished evaluation, which must be what its record says."""
    record = require_record(folder, wanted_by="this command")
    found = read_object(folder / SCORES, "benchmarks")
    require_same(folder / SCORES, fingerprint(found), record.fingerprint)
    for name, score in found["benchmarks"].items():
        if "questions" not in score:
            raise StoreError(
                f"{folder / SCORES}: {name} was scored by an older version of leyden, which kept "
                "no outcome of every problem",
                hint="use the version that wrote it, or `leyden run RECIPE --redo evaluate`",
            )
    return found


def difference(first: Scores, second: Scores) -> list[float] | None:
    """Of one benchmark's scores: [first minus second, low, high], paired over the problems that
    both answered, the same question under the same name; None where they share none."""
    shared = [p for p, asked in first["questions"].items() if second["questions"].get(p) == asked]
    try:
        value, (low, high) = paired_difference(_right(first, shared), _right(second, shared))
    except ValueError:
        return None
    return [value, low, high]


def _right(score: Scores, problems: list[str]) -> Mapping[str, list[bool]]:
    return {p: [letter == LETTERS[RIGHT] for letter in score["outcomes"][p]] for p in problems}


def compare_folders(first: Path, second: Path) -> dict[str, dict[str, Any]]:
    """Benchmark -> both accuracies and their paired difference, for what both folders evaluated."""
    left, right = (read_scores(folder)["benchmarks"] for folder in (first, second))
    shared = [name for name in left if name in right]
    if not shared:
        raise ConfigError(
            f"{first} and {second}: no benchmark in common; they have "
            f"{', '.join(left) or 'none'} and {', '.join(right) or 'none'}",
            hint="give folders such as RUN/evaluate/MODEL, or what `leyden evaluate MODEL` made",
        )
    differences = {name: difference(left[name], right[name]) for name in shared}
    for name, found in differences.items():
        if found is None:
            raise ConfigError(
                f"{first} and {second}: {name} is not the same problems in both",
                hint="evaluate both models on one file",
            )
    return {
        name: {
            "first": left[name]["accuracy"],
            "second": right[name]["accuracy"],
            "problems": len(left[name]["questions"].items() & right[name]["questions"].items()),
            "difference": differences[name],
        }
        for name in shared
    }
