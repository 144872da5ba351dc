"""Do training prompts hold benchmark problems? The same text, or 13 words in a row.

Thirteen words is what GPT-3 used (arXiv 2005.14165, appendix C). Case, punctuation and spacing do
not count. Words in a row that three or more problems of one benchmark share are its turns of phrase
("where m and n are relatively prime positive integers, find m + n") and betray nothing.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leyden.data.sources import Prompt, read_prompts, read_rows
from leyden.errors import ConfigError
from leyden.evals.problems import benchmark_values, read_problems
from leyden.recipe.benchmarks import Benchmark
from leyden.recipe.sampling import PromptFile
from leyden.recipe.toml import load_recipe, validate

GRAM = 13
PHRASE = 3  # problems that share a phrase; more hold it because the benchmark speaks like that


@dataclass(frozen=True)
class Overlap:
    """``prompt`` holds (a part of) ``problem``: ``kind`` is "exact" or "13-gram"; ``shared`` is the
    words, cut after some."""

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
            found = next((gram for gram in _grams(words) if gram in self.grams), None)
            if found is not None:
                yield Overlap(self.grams[found], name, f"{GRAM}-gram", found)


def _grams(words: list[str]) -> Iterator[str]:
    return (" ".join(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1))


def _short(text: str) -> str:
    return text if len(text) < 160 else text[:160] + "..."


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
