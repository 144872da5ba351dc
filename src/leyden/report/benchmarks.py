"""The benchmark section: every model's results, problem by problem, answer by answer."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from leyden.evals.results import BenchmarkResult, difference, read_results
from leyden.evals.verdict import LETTERS, OUTCOMES, RIGHT
from leyden.report.charts import Band, heat_map
from leyden.run.layout import GRADES, grades_file

BUDGET = 6_000_000  # characters of completions on one page; beyond it each is cut in the middle
SHORTEST = 300
BY_LETTER = {letter: outcome for outcome, letter in LETTERS.items()}


@dataclass(frozen=True)
class Evaluated:
    """One model's evaluation: its name on the page, and its folder."""

    name: str
    folder: Path


def collect_benchmarks(
    models: list[Evaluated], problems: Mapping[str, Any], *, against: str
) -> list[dict[str, Any]]:
    """The content of the template, per benchmark. ``problems``: id -> rendered prompt. Differences
    are to the model named ``against``, where it was evaluated."""
    results = {model.name: read_results(model.folder).benchmarks for model in models}
    names = dict.fromkeys(name for own in results.values() for name in own)
    length = _length(sum(r.samples for own in results.values() for r in own.values()), models)
    sections = []
    for name in names:
        having = {m: results[m.name][name] for m in models if name in results[m.name]}
        base = results.get(against, {}).get(name)
        sections.append(
            {
                "name": name,
                "k": max(result.samples_per_problem for result in having.values()),
                "rows": [
                    _row(m, r, None if m.name == against else base) for m, r in having.items()
                ],
                "heat": _heat(name, {m.name: r.outcomes for m, r in having.items()}),
                "models": [
                    {"name": m.name, "problems": list(_problems(m, name, problems, length))}
                    for m in having
                ],
            }
        )
    return sections


def _row(model: Evaluated, result: BenchmarkResult, base: BenchmarkResult | None) -> dict[str, Any]:
    return {
        "model": model.name,
        "result": result,
        "pass_at": result.pass_at[str(result.samples_per_problem)],
        "difference": difference(result, base) if base else None,
    }


def _heat(name: str, outcomes: Mapping[str, Mapping[str, str]]) -> Markup:
    """Problems from the one solved most, over all models, to the one solved least.

    ``outcomes``: model -> problem -> a letter per sample.
    """
    solved: dict[str, list[bool]] = {}
    for of_model in outcomes.values():
        for problem, letters in of_model.items():
            solved.setdefault(problem, []).extend(letter == LETTERS[RIGHT] for letter in letters)
    order = sorted(solved, key=lambda p: (-sum(solved[p]) / len(solved[p]), p))
    bands = [
        Band(model, [(p, _sorted(of_model.get(p, ""))) for p in order])
        for model, of_model in outcomes.items()
    ]
    return heat_map(bands, label=f"outcomes of every sample on {name}")


def _sorted(letters: str) -> list[str]:
    """Outcomes of a problem's samples, right ones first: the height of the green is avg@k."""
    return sorted((BY_LETTER[letter] for letter in letters), key=OUTCOMES.index)


def _length(answers: int, models: list[Evaluated]) -> int:
    """The characters of each completion that fit; all of them where the page stays small."""
    files = [path for m in models for path in (m.folder / GRADES).glob("*.jsonl")]
    if sum(path.stat().st_size for path in files) <= BUDGET:
        return BUDGET
    return max(SHORTEST, BUDGET // max(1, answers))


def _problems(
    model: Evaluated, name: str, problems: Mapping[str, Any], length: int
) -> Iterator[dict[str, Any]]:
    """Every problem with every answer to it."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    with open(grades_file(model.folder, name), encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            answer = json.loads(line)
            text = _cut(answer["text"], length)
            grouped.setdefault(answer["prompt_id"], []).append(
                answer | {"text": text, "line": number, "whole": text == answer["text"]}
            )
    for problem, answers in grouped.items():
        asked = problems.get(problem)
        yield {
            "id": problem.partition("/")[2],
            "asked": _cut(asked.text, 3000) if asked else "",
            "gold": (asked.answer or "") if asked else "",
            "right": sum(answer["outcome"] == RIGHT for answer in answers),
            "answers": answers,
        }


def _cut(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"
