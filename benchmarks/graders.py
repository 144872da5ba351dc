"""Test the graders on published data: reference answers, changed answers, solutions, speed.

    python benchmarks/graders.py DATA [--only gsm8k humaneval ...] [--write FOLDER] [--apart]

DATA is a folder with the published files that FILES names; missing ones are left out. Every
reference answer and solution must be right, every changed one wrong. A changed solution is that of
another problem, or has one operator, constant or return value changed. Some of these are right by
chance. ``--write`` therefore writes every case to files, for other graders to judge.
"""

import argparse
import ast
import json
import os
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from leyden.data.tables import read_rows
from leyden.evals import programs
from leyden.evals.asserts import judge_apart
from leyden.evals.grade_workers import GradeRequest, num_graders
from leyden.evals.grading import grade_completions
from leyden.evals.problems import Problem, read_problems
from leyden.evals.verdict import FORGEABLE, RIGHT, Verdict
from leyden.recipe.benchmarks import Benchmark, Evaluate

FILES = {
    "gsm8k": "gsm8k_test.jsonl",
    "math-500": "math500.jsonl",
    "aime24": "aime24.jsonl",
    "aime25": "aime25.jsonl",
    "amc23": "amc23.jsonl",
    "humaneval": "humaneval.jsonl.gz",
    "humanevalplus": "humanevalplus_mini.jsonl.gz",
    "mbpp": "mbpp_val.jsonl",
    "mbppplus": "mbppplus.jsonl.gz",
}
SWAPS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Lt: ast.GtE, ast.Gt: ast.LtE,
    ast.LtE: ast.Gt, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--perturbed", type=int, default=500)
    parser.add_argument("--speed", action="store_true", help="time trivial programs instead")
    parser.add_argument("--apart", action="store_true", help="tests apart and beside the program")
    options = parser.parse_args()
    if options.speed:
        print(speed())
        return
    for name, file in FILES.items():
        if (options.data / file).exists() and (not options.only or name in options.only):
            (apart if options.apart else measure)(name, options.data / file, options)


def measure(name: str, path: Path, options: argparse.Namespace) -> None:
    benchmark = known(name, path)
    problems = read_problems(benchmark)
    rows = [row for _, row in read_rows(path)]
    random.seed(0)
    if benchmark.grader == "math":
        gold = [(p, p.answer, f"So the answer is $\\boxed{{{p.answer}}}$.") for p in problems]
        wrong = list(perturbed_answers(problems, options.perturbed))
    else:
        pairs = list(zip(problems, rows, strict=True))
        gold = [(p, code := canonical(row), f"```python\n{code}\n```") for p, row in pairs]
        wrong = list(perturbed_programs(pairs, options.perturbed))
    for kind, cases in (("gold", gold), ("perturbed", wrong)):
        report(name, kind, cases, benchmark, options.write)


def known(name: str, path: Path) -> Benchmark:
    return Benchmark.model_validate({"name": name, "problems": {"file": str(path)}})


def report(name: str, kind: str, cases: list, benchmark: Benchmark, folder: Path | None) -> None:
    """Grade all cases, print counts and surprises, and write the cases to files if asked."""
    content = [p.row if benchmark.grader == "code" else {"answer": p.answer} for p, _, _ in cases]
    answers = [
        GradeRequest(p.id, problem, text, True)
        for (p, _, text), problem in zip(cases, content, strict=True)
    ]
    began = time.monotonic()
    verdicts = grade_completions(answers, benchmark, Evaluate())
    seconds = time.monotonic() - began
    counts = dict(Counter(v.outcome for v in verdicts))
    print(f"{name}, {kind}: {len(cases)} answers, {counts}, {seconds:.1f} s", flush=True)
    for (p, answer, _), verdict in zip(cases, verdicts, strict=True):
        if (verdict.outcome == RIGHT) != (kind == "gold"):
            print(f"    {p.id}: {verdict.outcome}: {verdict.why[:160]}  [{str(answer)[:80]!r}]")
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{name}-{kind}.jsonl", "w") as file:
            for (p, answer, _), verdict in zip(cases, verdicts, strict=True):
                right = verdict.outcome == RIGHT
                line = {"id": p.id, "task_id": p.id, "gold": p.answer, "answer": answer}
                file.write(json.dumps(line | {"solution": answer, "leyden": right}) + "\n")


def canonical(row: dict) -> str:
    """The published solution as a whole program."""
    if "code" in row:
        return row["code"]
    return row["prompt"] + row["canonical_solution"]


def perturbed_answers(problems: list[Problem], most: int) -> Iterator[tuple[Problem, str, str]]:
    """The answer with a changed digit or sign, plus or minus one, or that of another problem."""
    for i in range(min(most, 4 * len(problems))):
        problem = problems[i % len(problems)]
        answer = other_answer(problem.answer or "", i // len(problems) + i)
        if answer != problem.answer:
            yield problem, answer, f"So the answer is $\\boxed{{{answer}}}$."


def other_answer(gold: str, turn: int) -> str:
    digits = [m.start() for m in re.finditer(r"\d", gold)]
    if digits and turn % 2 == 0:
        at = digits[turn // 2 % len(digits)]
        changed = str((int(gold[at]) + 1 + turn % 8) % 10)
        return gold[:at] + changed + gold[at + 1 :]
    if re.fullmatch(r"-?[\d,]+", gold):
        number = int(gold.replace(",", ""))
        return str([number + 1, number - 1, -number or 1, 10 * number or 10][turn // 2 % 4])
    return f"{gold} + 1" if turn % 3 else f"7 ({gold})"


def perturbed_programs(pairs: list, most: int) -> Iterator[tuple[Problem, str, str]]:
    """The solution with one operator, constant, comparison or return value changed."""
    for i in range(min(most, 4 * len(pairs))):
        problem, row = pairs[i % len(pairs)]
        tree = ast.parse(canonical(row))
        places = [node for node in ast.walk(tree) if mutable(node)]
        if places:
            mutate(random.choice(places))
            code = ast.unparse(tree)
            yield problem, code, f"```python\n{code}\n```"


def mutable(node: ast.AST) -> bool:
    return (
        (isinstance(node, ast.BinOp) and type(node.op) in SWAPS)
        or (isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS)
        or (isinstance(node, ast.Constant) and type(node.value) is int)
        or (isinstance(node, ast.Return) and node.value is not None)
    )


def mutate(node: ast.AST) -> None:
    if isinstance(node, ast.BinOp):
        node.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        node.value += random.choice([1, -1, 2])
    elif isinstance(node, ast.Return):
        node.value = ast.Constant(random.choice([None, 0, "", True]))


def apart(name: str, path: Path, options: argparse.Namespace) -> None:
    """Judge solutions and changed ones by tests apart from the program, and by the same tests in
    its process, as HumanEval and MBPP define it. Caches of verdicts are not used."""
    benchmark = known(name, path)
    if benchmark.grader != "code":
        return
    random.seed(0)
    rows = [row for _, row in read_rows(path)]
    pairs = list(zip(read_problems(benchmark), rows, strict=True))
    gold = [(p, code := canonical(row), f"```python\n{code}\n```") for p, row in pairs]
    cases = [*gold, *perturbed_programs(pairs, options.perturbed)]
    cases = [case for case in cases if case[0].row["tests"]["kind"] == "asserts"]
    requests = [GradeRequest(p.id, p.row, text, True) for p, _, text in cases]
    ways: list[list[Verdict]] = []
    for way in (judge_apart, lambda *a: None):
        with tempfile.TemporaryDirectory() as empty:
            os.environ["XDG_CACHE_HOME"] = empty
            setattr(programs, "judge_apart", way)  # noqa: B010
            ways.append(grade_completions(requests, benchmark, Evaluate()))
    counts = Counter((a.outcome, b.outcome) for a, b in zip(*ways, strict=True))
    forgeable = sum(verdict.why == FORGEABLE for verdict in ways[0])
    print(f"{name}: {len(gold)} solutions and {len(cases) - len(gold)} changed ones, apart and "
          f"beside: {dict(counts)}; {forgeable} needed the program's process")  # fmt: skip
    for (p, _, _), a, b in zip(cases, *ways, strict=True):
        if a.outcome != b.outcome:
            print(f"    {p.id}: {a.outcome}, {b.outcome}: {b.why[:120]}")


def speed(count: int = 1000) -> str:
    """Trivial programs graded per second and core, all different, after the self-test."""
    benchmark = Benchmark.model_validate(
        {"name": "own", "grader": "code", "problems": {"file": "none"}}
    )
    tests = {"tests": {"kind": "asserts", "function": "add", "tests": "assert add(1, 2) == 3"}}
    rates = []
    for repeat in range(3):
        salt = f"{time.time()}-{repeat}"
        answers = [
            GradeRequest(
                "p", tests, f"```python\n# {salt} {i}\ndef add(a, b): return a + b\n```", True
            )
            for i in range(count)
        ]
        grade_completions(answers[:1], benchmark, Evaluate())
        began = time.monotonic()
        verdicts = grade_completions(answers[1:], benchmark, Evaluate())
        seconds = time.monotonic() - began
        assert all(verdict.outcome == RIGHT for verdict in verdicts)
        rates.append((count - 1) / seconds / num_graders(Evaluate()))
    low, middle, high = sorted(rates)
    return f"{middle:.0f} programs per second and core (of three: {low:.0f} to {high:.0f})"


if __name__ == "__main__":
    main()
