"""The graders on published data: reference answers are right, changed answers are wrong.

These tests take the parts that need seconds; benchmarks/graders.py does everything.
"""

import sys
from pathlib import Path

import pytest

from conftest import ROOT, needs_bubblewrap
from leyden.data.tables import read_rows
from leyden.evals.grade_workers import GradeRequest
from leyden.evals.grading import grade_completions
from leyden.evals.overlap import ProblemIndex
from leyden.evals.problems import read_problems
from leyden.evals.verdict import RIGHT
from leyden.recipe.benchmarks import Evaluate

sys.path.insert(0, str(ROOT / "benchmarks"))
from graders import FILES, canonical, known, perturbed_answers

DATA = ROOT.parent / "shared" / "data"
MATHS = ["gsm8k", "math-500", "aime24", "aime25", "amc23"]
EVERY = {"humaneval": 1, "mbpp": 2, "humanevalplus": 4, "mbppplus": 12}  # one of so many
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no published data in {DATA}")


def path_of(name: str) -> Path:
    return DATA / FILES[name]


@needs_data
@pytest.mark.parametrize("name", MATHS)
def test_gold_answers_are_right(name):
    benchmark = known(name, path_of(name))
    answers = [
        GradeRequest(p.id, {"answer": p.answer}, f"Hence $\\boxed{{{p.answer}}}$, as wanted.", True)
        for p in read_problems(benchmark)
    ]
    wrong = [v for v in grade_completions(answers, benchmark, Evaluate()) if v.outcome != RIGHT]
    assert wrong == []


@needs_data
@pytest.mark.parametrize("name", MATHS)
def test_perturbed_answers_are_wrong(name):
    benchmark = known(name, path_of(name))
    cases = list(perturbed_answers(read_problems(benchmark), 100))
    answers = [GradeRequest(p.id, {"answer": p.answer}, text, True) for p, _, text in cases]
    verdicts = grade_completions(answers, benchmark, Evaluate())
    assert [
        (p.answer, message)
        for (p, message, _), v in zip(cases, verdicts, strict=True)
        if v.outcome == RIGHT
    ] == []


@needs_data
@needs_bubblewrap
@pytest.mark.parametrize("name", EVERY)
def test_canonical_solutions_pass(name):
    benchmark = known(name, path_of(name))
    problems = read_problems(benchmark)[:: EVERY[name]]
    rows = [row for _, row in read_rows(path_of(name))][:: EVERY[name]]
    answers = [
        GradeRequest(p.id, p.row, f"Here:\n```python\n{canonical(row)}\n```", True)
        for p, row in zip(problems, rows, strict=True)
    ]
    verdicts = grade_completions(answers, benchmark, Evaluate())
    wrong = [(a.prompt_id, v) for a, v in zip(answers, verdicts, strict=True) if v.outcome != RIGHT]
    assert wrong == []


@needs_data
def test_training_prompts_without_overlap_have_none():
    """The prompts' README says that they share no 13 words with these sets, so none may be
    reported."""
    rows = [row for _, row in read_rows(DATA / "math_prompts.jsonl")][::10]
    pairs = [(row["id"], row["prompt"]) for row in rows]
    for name in MATHS:
        problems = read_problems(known(name, path_of(name)))
        assert list(ProblemIndex({p.id: p.question for p in problems}).find(pairs)) == []


@needs_data
def test_every_problem_of_a_benchmark_is_found_in_itself():
    """Also with a sentence around it, if it has thirteen words."""
    for name in MATHS:
        problems = {p.id: p.question for p in read_problems(known(name, path_of(name)))}
        index = ProblemIndex(problems)
        assert {o.kind for o in index.find(problems.items())} == {"exact"}
        inside = [(i, f"Please solve: {text} Thank you.") for i, text in problems.items()]
        assert len(list(index.find(inside))) > 0.85 * len(inside)
