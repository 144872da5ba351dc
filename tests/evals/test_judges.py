"""What a benchmark may allow beside equality; graders of the user's; answers that are values."""

import pytest

from conftest import BACKEND, needs_bubblewrap
from leyden import run_program
from leyden.errors import ConfigError
from leyden.evals.grade_workers import GradeRequest
from leyden.evals.graders import grade_exact, grade_literal
from leyden.evals.grading import grade_completions, judge_of
from leyden.evals.judge import Judge, same_output, same_value
from leyden.evals.literals import same_literal
from leyden.evals.programs import grade_program
from leyden.evals.verdict import RIGHT, WRONG
from leyden.recipe.benchmarks import Benchmark, Evaluate, Problems
from leyden.sandbox.client import Limits, Sandbox

CODE = {"name": "c", "grader": "code", "problems": Problems(file="x.jsonl")}


@pytest.mark.parametrize(
    ("output", "expected", "rule", "same"),
    [
        ("0.33333", "0.333333333", {"float_tolerance": 1e-4}, True),
        ("0.3343", "0.333333333", {"float_tolerance": 1e-4}, False),
        ("1000.05", "1000", {"float_tolerance": 1e-4}, True),
        ("3 1\n2", "2\n1 3", {"any_order": True}, True),
        ("3 1\n2", "2\n1 1", {"any_order": True}, False),
        ("YES", "Yes", {"ignore_case": True}, True),
        ("YES", "Yes", {}, False),
        ("nan", "0.1", {"float_tolerance": 1.0}, False),
        ("1000001", "1000000", {"float_tolerance": 1e-3}, False),
        ("1e400", "2e400", {"float_tolerance": 1e-3}, False),
        ("9.99999 5.0", "5.0 10.0", {"any_order": True, "float_tolerance": 1e-4}, True),
        ("b\nA", "a\nB", {"any_order": True, "ignore_case": True}, True),
    ],
)
def test_rules_of_output(output, expected, rule, same):
    assert same_output(output, expected, Judge(**rule)) == same


@pytest.mark.parametrize(
    ("value", "expected", "rule", "same"),
    [
        ([3, 1, 2], [1, 2, 3], {"any_order": True}, True),
        ([3, 1, 1], [1, 2, 3], {"any_order": True}, False),
        ([3, 1, 2], [1, 2, 3], {}, False),
        ({"a": [0.5]}, {"a": [0.501]}, {"float_tolerance": 1e-2}, True),
        (True, 1.5, {"float_tolerance": 1.0}, False),
        (["Yes"], ["yes"], {"ignore_case": True}, True),
        (10**400, 1.5, {}, False),
        ([9.99999, 5.0], [5.0, 10.0], {"any_order": True, "float_tolerance": 1e-4}, True),
        ([[1, 2], [3, 4]], [[4, 3], [2, 1]], {"any_order": True}, True),
        (1000001, 1000000, {"float_tolerance": 1e-3}, False),
    ],
)
def test_rules_of_values(value, expected, rule, same):
    assert Judge(**rule).accepts_value([], value, expected) == same
    assert same_value(expected, expected, Judge(**rule))


def test_rules_are_of_programs_and_change_what_is_cached():
    for wrong in ({"grader": "exact", "ignore_case": True}, {"checker": "a:b", "any_order": True}):
        with pytest.raises(ValueError, match=r"needs grader = 'code'|decides alone"):
            Benchmark.model_validate(
                {**CODE, "problems": {"file": "x", "answer_field": "a"}, **wrong}
            )
    plain, other = Benchmark(**CODE), Benchmark(**CODE, ignore_case=True)
    assert "ignore_case" not in plain.identity() and other.identity()["ignore_case"]
    assert Benchmark(**CODE, checker="/x/c.py:f").identity()["checker"] == "c.py:f"


CHECKER = """
def two_primes(given, output, expected):
    parts = list(map(int, output.split()))
    def prime(n): return n > 1 and all(n % d for d in range(2, n))
    return sum(parts) == int(given) and all(map(prime, parts))
def raises(given, output, expected):
    raise KeyError("x")
def named(arguments, result, expected):
    return sorted(result) == sorted(expected), "sorted"
"""


@needs_bubblewrap
def test_a_checker_decides_in_place_of_a_comparison(tmp_path):
    (tmp_path / "c.py").write_text(CHECKER)
    settings = Evaluate(graders=1)
    tests = {"kind": "stdio", "cases": [["10", "3 7"], ["8", "3 5"]]}
    program = "n = int(input())\nprint(5, n - 5)"
    request = [GradeRequest("p", {"tests": tests}, f"```python\n{program}\n```", True)]
    (verdict,) = grade_completions(request, Benchmark(**CODE), settings)
    assert verdict.outcome == WRONG
    checked = Benchmark(**CODE, checker=f"{tmp_path}/c.py:two_primes")
    (verdict,) = grade_completions(request, checked, settings)
    assert verdict.outcome == RIGHT
    (tmp_path / "c.py").write_text(CHECKER.replace("n > 1", "n > 5"))  # an edited file counts anew
    (verdict,) = grade_completions(request, checked, settings)
    assert verdict.outcome == WRONG
    with pytest.raises(ConfigError, match=r"c\.py:raises: the checker raised KeyError: 'x'"):
        grade_completions(request, Benchmark(**CODE, checker=f"{tmp_path}/c.py:raises"), settings)
    calls = {"kind": "calls", "function": "f", "cases": [[[3], [2, 1, 0]]]}
    assert not isinstance(BACKEND, str)
    sandbox = Sandbox(BACKEND)
    judge = judge_of(Benchmark(**CODE, checker=f"{tmp_path}/c.py:named"))
    answer = "def f(n: int) -> List[int]:\n    return list(range(n))"
    verdict = grade_program(calls, f"```python\n{answer}\n```", sandbox, Limits(), judge)
    sandbox.close()
    assert verdict.outcome == RIGHT, verdict


def test_a_checker_that_is_not_there_is_refused_before_anything_is_sampled(tmp_path):
    with pytest.raises(ConfigError, match="no such grader file"):
        judge_of(Benchmark(**CODE, checker=f"{tmp_path}/none.py:f"))


GRADER = """
from leyden import run_program
def runs(problem, completion):
    run = run_program(completion, stdin=problem["given"])
    if not run.finished:
        return False, run.why
    return run.output.strip() == problem["answer"], f"it printed {run.output.strip()}"
"""


@needs_bubblewrap
def test_a_grader_of_the_users_runs_programs_and_gives_a_reason(tmp_path):
    (tmp_path / "g.py").write_text(GRADER)
    benchmark = Benchmark(
        name="g", grader=f"{tmp_path}/g.py:runs", problems=Problems(file="x.jsonl")
    )
    problem = {"given": "3", "answer": "9"}
    programs = ["print(int(input()) ** 2)", "print(1)", "1 / 0", "while True: pass"]
    requests = [GradeRequest("p", problem, program, True) for program in programs]
    limits = {"cpu_seconds": 1, "memory_mb": 256}
    settings = Evaluate.model_validate({"sandbox": limits})
    verdicts = grade_completions(requests, benchmark, settings)
    assert [v.outcome for v in verdicts] == [RIGHT, WRONG, WRONG, WRONG]
    assert verdicts[0].why == "it printed 9" and verdicts[1].why == "it printed 1"
    assert verdicts[2].why.startswith("ZeroDivisionError") and "CPU time (1 s)" in verdicts[3].why
    assert run_program("print(2)").output == "2\n"  # also where no benchmark is being graded


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("Paris", True),
        ("So it is \\boxed{Paris}.", True),
        ("<think>\\boxed{Rome}</think>It is \\boxed{Paris}", True),
        ("It is Paris", False),
        ("\\boxed{paris}", False),
        ("<think>Rome</think>Paris", True),
        ("\\boxed{Rome} or \\boxed{Paris}", False),
    ],
)
def test_exact_takes_the_text_or_its_last_box(completion, right):
    assert grade_exact({"answer": "Paris"}, completion)[0] == right


@pytest.mark.parametrize(
    ("completion", "answer", "right"),
    [
        ("[ANSWER]\nf([1]) == [1, 2]\n[/ANSWER]", "[1, 2]", True),
        ("[ANSWER][1,2][/ANSWER]", "[1, 2]", True),
        ("[ANSWER](1, 2)[/ANSWER]", "[1, 2]", False),
        ("The output is `(1, 2)`.", "(1, 2)", True),
        ("```python\nassert f('x') == 'a=\"b\"'\n```", "'a=\"b\"'", True),
        ("We see\n\n{'a': 1, 'b': [2]}", "{'b': [2], 'a': 1}", True),
        ("\\boxed{True}", "1", False),
        ("\\boxed{1.0}", "1", True),
        ("I do not know", "1", False),
        ("the answer is 'it''s'", "\"its\"", True),
        ("[ANSWER]{(1,): [2]}[/ANSWER]", "{(1,): (2,)}", False),
        ("<think>[ANSWER]1[/ANSWER]</think>", "1", False),
        ("f(3) returns [1, 2]", "[1, 2]", True),
        ("The result is 3 because x.", "3", True),
        ("The output is [1, 2], since so.", "[1, 2]", True),
        ("[ANSWER]'a'", "'a'", True),
        ("[ANSWER]f('x') == 'a == b'[/ANSWER]", "'a == b'", True),
        ("\\boxed{\\{1: 2\\}}", "{1: 2}", True),
        ("```\n5\n```\nSo the answer is 6.", "6", True),
        ("[ANSWER]{True: 1}[/ANSWER]", "{1: 1}", False),
    ],
)  # fmt: skip
def test_literals_are_values_of_the_same_kind(completion, answer, right):
    assert grade_literal({"answer": answer}, completion)[0] == right, answer


def test_an_absurd_literal_is_text():
    assert not same_literal("(" * 5000 + ")" * 5000, "1")
    assert same_literal("lambda: 1", "lambda: 1")
