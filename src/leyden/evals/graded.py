"""The samples of a benchmark with their verdicts: also of problems that could not be asked."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leyden.data.prompt_set import RenderedPrompt
from leyden.evals.grading import digest
from leyden.evals.problems import problem_of
from leyden.evals.results import BenchmarkResult
from leyden.evals.summary import summarise
from leyden.evals.verdict import TRUNCATED, Grade, Verdict
from leyden.files import write_atomic
from leyden.provenance.identity import hash_file
from leyden.store.reader import Store


@dataclass(frozen=True)
class Graded:
    """A sample of a problem with its verdict. ``text`` is empty where it was never asked."""

    prompt_id: str
    sample: int
    problem: dict[str, Any]
    verdict: Verdict
    text: str = ""


def with_room(problems: list[RenderedPrompt], context: int | None) -> list[RenderedPrompt]:
    """The problems after which the context has room for a token."""
    return [p for p in problems if context is None or len(p.ids) < context]


def not_asked(problems: list[RenderedPrompt], context: int | None, samples: int) -> list[Graded]:
    """The other problems: there is no room for their answers, which is what becomes of them."""
    asked = {p.id for p in with_room(problems, context)}
    return [
        Graded(p.id, sample, problem_of(p), Verdict(TRUNCATED, why=_no_room(p, context)))
        for p in problems
        if p.id not in asked
        for sample in range(samples)
    ]


def _no_room(problem: RenderedPrompt, context: int | None) -> str:
    return f"its prompt of {len(problem.ids)} tokens leaves no room in a context of {context}"


def write_grades(path: Path, graded: list[Graded]) -> None:
    """A line of JSON for each sample."""
    grades = (Grade.of(g.prompt_id, g.sample, g.verdict, g.text) for g in graded)
    write_atomic(path, "".join(json.dumps(asdict(grade)) + "\n" for grade in grades).encode())


def result_of(
    store: Store, graded: list[Graded], labels: Mapping[str, Mapping[str, str]], grades: Path
) -> BenchmarkResult:
    """The result on a benchmark, from all its samples and the file of their grades."""
    by_problem: dict[str, list[Verdict]] = {}
    for one in graded:
        by_problem.setdefault(one.prompt_id, []).append(one.verdict)
    asked = {one.prompt_id: one.problem for one in graded}
    return BenchmarkResult(
        **vars(summarise(by_problem, labels)),
        questions={name: digest(problem)[:8] for name, problem in asked.items()},
        mean_tokens=store.num_tokens / len(store),
        store=store.fingerprint,
        grades=hash_file(grades),
    )
