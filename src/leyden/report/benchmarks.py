"""The benchmark section: what every model scored, problem by problem, answer by answer."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from leyden.evals.results import Scores, difference, read_scores
from leyden.evals.verdict import LETTERS, OUTCOMES, RIGHT
from leyden.report.charts import Band, heat_map

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
    """Per benchmark what the template shows. ``problems``: id -> rendered prompt; differences are
    to the model named ``against``, where it was evaluated."""
    scores = {model.name: read_scores(model.folder)["benchmarks"] for model in models}
    names = dict.fromkeys(name for found in scores.values() for name in found)
    length = _length(sum(s["samples"] for found in scores.values() for s in found.values()), models)
    return [
        {
            "name": name,
            "k": max(scores[m.name][name]["samples_per_problem"] for m in models),
            "rows": [_row(m, scores, name, against) for m in models if name in scores[m.name]],
            "heat": _heat(name, models, scores),
            "models": [
                {"name": m.name, "problems": list(_problems(m, name, problems, length))}
                for m in models
                if name in scores[m.name]
            ],
        }
        for name in names
    ]


def _row(model: Evaluated, scores: dict[str, Scores], name: str, against: str) -> dict[str, Any]:
    score = scores[model.name][name]
    base = scores.get(against, {}).get(name) if model.name != against else None
    return {
        "model": model.name,
        "score": score,
        "pass_at": score["pass_at"][str(score["samples_per_problem"])],
        "difference": difference(score, base) if base else None,
    }


def _heat(name: str, models: list[Evaluated], scores: dict[str, Scores]) -> Markup:
    """Problems from the one solved most, over all models, to the one solved least."""
    outcomes = {m.name: scores[m.name][name]["outcomes"] for m in models if name in scores[m.name]}
    solved: dict[str, list[bool]] = {}
    for found in outcomes.values():
        for problem, letters in found.items():
            solved.setdefault(problem, []).extend(letter == LETTERS[RIGHT] for letter in letters)
    order = sorted(solved, key=lambda p: (-sum(solved[p]) / len(solved[p]), p))
    bands = [
        Band(model, [(p, _sorted(found.get(p, ""))) for p in order])
        for model, found in outcomes.items()
    ]
    return heat_map(bands, label=f"outcomes of every sample on {name}")


def _sorted(letters: str) -> list[str]:
    """Outcomes of a problem's samples, right ones first: the height of the green is avg@k."""
    return sorted((BY_LETTER[letter] for letter in letters), key=OUTCOMES.index)


def _length(answers: int, models: list[Evaluated]) -> int:
    """How much of each completion fits; all of it where the page stays small."""
    files = [path for m in models for path in (m.folder / "grades").glob("*.jsonl")]
    if sum(path.stat().st_size for path in files) <= BUDGET:
        return BUDGET
    return max(SHORTEST, BUDGET // max(1, answers))


def _problems(
    model: Evaluated, name: str, problems: Mapping[str, Any], length: int
) -> Iterator[dict[str, Any]]:
    """Every problem with every answer to it."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    with open(model.folder / "grades" / f"{name}.jsonl", encoding="utf-8") as lines:
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
