"""Find training prompts that hold benchmark problems: the same text, or 13 words in a row.

Thirteen words is the length that GPT-3 used (arXiv 2005.14165, appendix C). Case, punctuation and
spacing do not count. Thirteen words that three or more problems of one benchmark share are its way
of speaking ("where m and n are relatively prime positive integers, find m + n") and prove nothing.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leyden.data.sources import Prompt, read_prompts
from leyden.data.tables import read_rows
from leyden.errors import ConfigError
from leyden.evals.own_files import benchmark_values
from leyden.evals.problems import Problem, read_problems
from leyden.models.hub import fetched
from leyden.recipe.benchmarks import Benchmark
from leyden.recipe.sampling import PromptFile
from leyden.recipe.toml import load_recipe, validate

GRAM = 13
PHRASE = 3  # from this many problems on, a shared gram is how the benchmark speaks


@dataclass(frozen=True)
class Overlap:
    """``prompt`` holds (a part of) ``problem``. ``kind`` is "exact" or "13-gram"; ``shared`` is the
    beginning of the shared words."""

    problem: str
    prompt: str
    kind: str
    shared: str


def words_of(text: str) -> list[str]:
    """Words and numbers, in lower case."""
    return re.findall(r"\w+", text.casefold())


class ProblemIndex:
    """The problems of one benchmark, ready to be looked for. ``problems``: id -> text."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.whole: dict[str, str] = {}
        holders: dict[str, set[str]] = {}
        for name, text in problems.items():
            words = words_of(text)
            self.whole.setdefault(" ".join(words), name)
            for gram in _grams(words):
                holders.setdefault(gram, set()).add(name)
        self.grams = {gram: min(names) for gram, names in holders.items() if len(names) < PHRASE}

    def find(self, prompts: Iterable[tuple[str, str]]) -> Iterator[Overlap]:
        """One overlap for each (prompt id, text) that holds anything of a problem; exact first."""
        for name, text in prompts:
            words = words_of(text)
            whole = " ".join(words)
            if whole in self.whole:
                yield Overlap(self.whole[whole], name, "exact", _short(whole))
                continue
            shared = next((gram for gram in _grams(words) if gram in self.grams), None)
            if shared is not None:
                yield Overlap(self.grams[shared], name, f"{GRAM}-gram", shared)


def warn_of_overlap(
    name: str, problems: Sequence[Problem], trained: Mapping[str, Sequence[tuple[str, str]]]
) -> dict[str, int]:
    """Split -> the number of its prompts, (id, text), that hold something of a problem of the
    benchmark ``name``; a warning is logged where any do."""
    index, counts = ProblemIndex({p.id: p.question for p in problems}), {}
    for split, prompts in trained.items():
        overlaps = list(index.find(prompts))
        counts[split] = len(overlaps)
        if overlaps:
            logging.getLogger(__name__).warning(
                "%d of %d %s prompts hold problems of the benchmark %s (%d of them exactly), first "
                "%s: %r",
                len(overlaps),
                len(prompts),
                split,
                name,
                sum(o.kind == "exact" for o in overlaps),
                overlaps[0].prompt,
                overlaps[0].shared[:80],
            )
    return counts


def _grams(words: list[str]) -> Iterator[str]:
    return (" ".join(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1))


def _short(text: str) -> str:
    return text if len(text) < 160 else text[:160] + "..."


@dataclass(frozen=True)
class SourceOverlap:
    """The overlaps of one source of prompts with one benchmark. ``exact`` and ``grams`` count
    them by kind."""

    benchmark: str
    source: str
    prompts: int
    exact: int
    grams: int
    overlaps: list[Overlap]


def check_overlap(
    places: Sequence[str], benchmarks: Sequence[str], prompt_field: str
) -> list[SourceOverlap]:
    """The overlaps of every source of prompts with every benchmark.

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


def _sources(places: Sequence[str], field: str) -> tuple[dict[str, list[Prompt]], list[Benchmark]]:
    if len(places) == 1 and places[0].endswith(".toml"):
        recipe = load_recipe(Path(places[0]))
        of_recipe = {"prompts.sft": recipe.prompts.sft, "prompts.opd": recipe.prompts.opd}
        prompts = {
            name: read_prompts(file, files=fetched(file)) for name, file in of_recipe.items()
        }
        return prompts, list(recipe.evaluate.benchmarks)
    files = {place: _prompt_file(place, field) for place in places}
    return {place: read_prompts(file, unique=False) for place, file in files.items()}, []


def _prompt_file(place: str, field: str) -> PromptFile:
    """Prompts go by their ``id`` where the first row has one."""
    _, row = next(iter(read_rows(Path(place))), (0, {}))
    return PromptFile(file=place, prompt_field=field, id_field="id" if "id" in row else None)


def _compare(
    name: str, index: ProblemIndex, source: str, prompts: Iterable[Prompt]
) -> SourceOverlap:
    pairs = [(prompt.id, prompt.text) for prompt in prompts]
    overlaps = list(index.find(pairs))
    exact = sum(overlap.kind == "exact" for overlap in overlaps)
    return SourceOverlap(name, source, len(pairs), exact, len(overlaps) - exact, overlaps)
