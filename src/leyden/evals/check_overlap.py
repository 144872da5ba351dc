"""`leyden check-overlap`: any training prompts against any benchmarks."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leyden.data.prompts import Prompt, read_prompts
from leyden.data.tables import read_rows
from leyden.errors import ConfigError
from leyden.evals.overlap import ProblemIndex
from leyden.evals.problems import benchmark_values, read_problems
from leyden.recipe.benchmarks import Benchmark
from leyden.recipe.sampling import PromptFile
from leyden.recipe.toml import load_recipe, validate


def check_overlap(places: list[str], benchmarks: list[str], prompt_field: str) -> list[dict]:
    """Per benchmark and source of prompts: how many prompts hold something of its problems.

    ``places`` is a recipe, whose prompts and benchmarks are taken, or files of prompts.
    """
    sources, known = _sources(places, prompt_field)
    known += [
        validate(Benchmark, benchmark_values(text), source="--benchmarks") for text in benchmarks
    ]
    if not known or not sources:
        raise ConfigError(
            "nothing to compare: no " + ("prompts" if known else "benchmark") + " given",
            hint="leyden check-overlap prompts.jsonl --benchmarks gsm8k aime24",
        )
    indexes = {b.name: ProblemIndex({p.id: p.question for p in read_problems(b)}) for b in known}
    return [
        _compare(name, index, source, prompts)
        for source, prompts in sources.items()
        for name, index in indexes.items()
    ]


def _sources(places: list[str], field: str) -> tuple[dict[str, list[Prompt]], list[Benchmark]]:
    if len(places) == 1 and places[0].endswith(".toml"):
        recipe = load_recipe(Path(places[0]))
        files = {"prompts.sft": recipe.prompts.sft, "prompts.opd": recipe.prompts.opd}
        read = {name: read_prompts(file) for name, file in files.items()}
        return read, list(recipe.evaluate.benchmarks)
    files = {place: _prompt_file(place, field) for place in places}
    return {place: read_prompts(file, unique=False) for place, file in files.items()}, []


def _prompt_file(place: str, field: str) -> PromptFile:
    """Prompts go by their ``id`` where the first row has one."""
    _, row = next(iter(read_rows(Path(place))), (0, {}))
    return PromptFile(file=place, prompt_field=field, id_field="id" if "id" in row else None)


def _compare(
    name: str, index: ProblemIndex, source: str, prompts: Iterable[Prompt]
) -> dict[str, Any]:
    pairs = [(prompt.id, prompt.text) for prompt in prompts]
    overlaps = list(index.find(pairs))
    exact = sum(overlap.kind == "exact" for overlap in overlaps)
    return {
        "benchmark": name,
        "source": source,
        "prompts": len(pairs),
        "exact": exact,
        "grams": len(overlaps) - exact,
        "overlaps": [asdict(overlap) for overlap in overlaps],
    }
