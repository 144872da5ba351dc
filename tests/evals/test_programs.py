# ruff: noqa: E501  # programs and tables, one line each
"""Programs are extracted from completions, run against each kind of test, and graded."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import BACKEND, needs_bubblewrap
from leyden.evals import grade_workers, grading
from leyden.evals.code_tests import CONTEST
from leyden.evals.evalplus import same_result
from leyden.evals.grade_workers import GradeRequest
from leyden.evals.grading import grade_completions
from leyden.evals.judge import same_output
from leyden.evals.programs import expect, extract_program, grade_program
from leyden.evals.summary import summarise
from leyden.evals.verdict import NOT_GRADED, RIGHT, WRONG, Verdict
from leyden.provenance.identity import hash_file
from leyden.recipe.benchmarks import Benchmark, Evaluate, Problems, SandboxLimits
from leyden.sandbox.client import Ended, Limits, Sandbox
from leyden.sandbox.inside.values import Opaque, decode, encode

LIMITS = Limits(cpu_seconds=2, wall_seconds=5.0, memory_bytes=256 * 2**20)
PREFIX = 'from typing import List\n\ndef total(xs: List[int]) -> int:\n    """The sum."""\n'
HUMANEVAL = {
    "kind": "asserts",
    "prefix": PREFIX,
    "function": "total",
    "tests": "def check(candidate):\n    assert candidate([1, 2]) == 3\ncheck(total)\n",
}
STDIO = {"kind": "stdio", "cases": [["1 2\n", "3\n"], ["5 5\n", "10\n"]]}
CALLS = {"kind": "calls", "function": "add", "cases": [[[1, 2], 3], [[[1], [2]], [1, 2]]]}
COMPARE = {
    "kind": "compare",
    "task": "HumanEval/1",
    "function": "half",
    "prefix": "",
    "solution": "def half(x):\n    return x / 2",
    "calls": [["list", [2]], ["list", [3]], ["list", ["text"]]],
    "atol": 0,
}


@pytest.fixture(scope="module")
def sandbox():
    assert not isinstance(BACKEND, str)
    result = Sandbox(BACKEND)
    yield result
    result.close()


WHOLE = "def total(xs):\n    return sum(xs)\n"
ANSWERS = [
    f"```python\n{WHOLE}```",
    f"```\n{WHOLE}```",
    f"Sure!\n```py\n{WHOLE}```\nUse it so:\n```python\nprint(total([1]))\n```",
    f"<think>```python\ndef total(xs): return 0\n```</think>```python\n{WHOLE}```",
    f"First try:\n```python\ndef total(xs): return 1\n```\nBetter:\n```python\n{WHOLE}```",
    f"```python\n{WHOLE}",
    WHOLE,
    "    return sum(xs)\n",
    "    return sum(xs)\n\ndef unfinished(",
    "```python\n    return sum(xs)\n```",
    f"```bash\nls\n```\n```python\n{WHOLE}```\n```text\n3\n```",
    "```python\ndef total(xs: List[int]) -> int:\n    return sum(xs)\n```",
    "```python\ntotal = sum\n```",
    "  ```python\n  def total(xs):\n      return sum(xs)\n  ```",
    f"```py3\n{WHOLE}```",
    f"~~~python\n{WHOLE}~~~",
    "```python\n    return sum(xs)\n```\nFor example:\n```python\nprint(total([1]))\n```",
    f"```python\n{WHOLE}```\nOutput:\n```\n3\n```",
]


@needs_bubblewrap
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_program_is_found_wherever_it_stands(answer, sandbox):
    verdict = grade_program(HUMANEVAL, answer, sandbox, LIMITS)
    assert verdict.outcome == RIGHT, (extract_program(answer, HUMANEVAL), verdict)


MBPP = {"kind": "asserts", "tests": "assert total([1, 2]) == 3\nassert len(str(total([]))) == 1"}


@needs_bubblewrap
@pytest.mark.parametrize(
    "after",
    [
        "",
        "Example:\n```python\nassert total([1]) == 1\n```",
        "Output:\n```\nTrue\n```",
        "```python\nprint(total([1, 2]))\n```\nprints\n```text\n3\n```",
    ],
)
def test_what_follows_a_solution_is_not_taken_for_it(after, sandbox):
    answer = f"```python\n{WHOLE}```\n{after}"
    assert grade_program(MBPP, answer, sandbox, LIMITS).outcome == RIGHT
    stdio = f"```python\nprint(sum(map(int, input().split())))\n```\n{after}"
    if "python" not in after:
        assert grade_program(STDIO, stdio, sandbox, LIMITS).outcome == RIGHT


LEETCODE = """class Solution:
    def add(self, a: Optional[List[int]], b: int) -> int:
        return sum(a) + gcd(b, b) + len(defaultdict(int)) + bisect.bisect([1], 0)
"""


@needs_bubblewrap
def test_contest_solutions_need_not_import_what_judges_give(sandbox):
    tests = {"kind": "calls", "function": "add", "cases": [[[[1, 2], 3], 6]]}
    assert grade_program(tests, f"```python\n{LEETCODE}```", sandbox, LIMITS).outcome == WRONG
    verdict = grade_program(tests | CONTEST, f"```python\n{LEETCODE}```", sandbox, LIMITS)
    assert verdict.outcome == RIGHT, verdict
    wrong = grade_program(
        tests | CONTEST, "```python\ndef add(a, b): return x\n```", sandbox, LIMITS
    )
    assert "(line 1 of the program: def add(a, b): return x)" in wrong.why


@pytest.mark.parametrize(
    "answer", ["", "I do not know.", "<think>```python\n1\n```", "total it is"]
)
def test_no_program_is_unparsed(answer):
    assert extract_program(answer, HUMANEVAL) is None


NOT_RIGHT = {
    "def total(xs): return 0": "AssertionError (line 2 of the tests: assert candidate([1, 2]) == 3)",
    "def total(xs): return sum(xs": "SyntaxError: '(' was never closed (<program>, line ",
    "def total(xs): return summe(xs)": "NameError: name 'summe' is not defined (line ",
    "def other(xs): return 1": "AssertionError",  # the prompt's own stub answers None
    "import sys\nsys.exit(0)": "it exits before its tests have run (line ",
    "import os\nos._exit(0)": "it ended before its tests had run",
    "def total(xs):\n    while True: pass": "out of CPU time (2 s)",
    "import time\ndef total(xs): time.sleep(99)": "out of time (5 s)",
    "def total(xs): return total(xs)": "RecursionError: maximum recursion depth exceeded",
    "import os\ndef total(xs): os.kill(os.getpid(), 11)": "killed by SIGSEGV",
    "def total(xs): return [0] * 10**9": "MemoryError",
    "import torch": "ModuleNotFoundError: No module named 'torch'",
}


@needs_bubblewrap
@pytest.mark.parametrize("program", NOT_RIGHT)
def test_what_is_wrong_is_said(program, sandbox):
    verdict = grade_program(HUMANEVAL, f"```python\n{program}\n```", sandbox, LIMITS)
    assert verdict.outcome == WRONG
    assert verdict.why.startswith(NOT_RIGHT[program]), verdict.why
    assert verdict.lasting == ("out of time" not in verdict.why)


STDIO_PROGRAMS = {
    "print(sum(map(int, input().split())))": RIGHT,
    "import sys\nfor line in sys.stdin:\n    print(sum(map(int, line.split())))": RIGHT,
    "if __name__ == '__main__':\n    a, b = map(int, input().split())\n    print(a + b)": RIGHT,
    "import threading\nthreading.Thread(target=lambda: print(sum(map(int, input().split())))).start()": RIGHT,
    "import os\nprint(sum(map(int, input().split())), flush=True)\nos._exit(0)": RIGHT,
    "print(sum(map(int, input().split())))\nexit()": RIGHT,
    "print(sum(map(int, input().split())), end='')": RIGHT,
    "print(float(sum(map(int, input().split()))))": RIGHT,  # 3.0 is 3: decimals by value
    "import sys\nsys.stdout.write(str(sum(map(int, sys.stdin.buffer.read().split()))))": RIGHT,
    "print(3)": WRONG,
    "print(sum(map(int, input().split())))\nraise SystemExit(1)": WRONG,
    "print('the sum is', sum(map(int, input().split())))": WRONG,
    "print(sum(map(int, input().split())))\n1/0": WRONG,
    "input(); input()": WRONG,
}  # fmt: skip


@needs_bubblewrap
@pytest.mark.parametrize("program", STDIO_PROGRAMS)
def test_contests_by_standard_input_and_output(program, sandbox):
    verdict = grade_program(STDIO, f"```python\n{program}\n```", sandbox, LIMITS)
    assert verdict.outcome == STDIO_PROGRAMS[program], verdict


@needs_bubblewrap
def test_the_first_case_that_fails_is_shown(sandbox):
    verdict = grade_program(STDIO, "```python\nprint(3)\n```", sandbox, LIMITS)
    assert verdict.why == "case 2 of 2: expected '10\\n', found '3\\n'"
    verdict = grade_program(CALLS, "```python\ndef add(a, b): return 3\n```", sandbox, LIMITS)
    assert verdict.why == "case 2 of 2: expected [1, 2], found 3"


@needs_bubblewrap
@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("def add(a, b): return a + b", RIGHT),
        ("class Solution:\n    def add(self, a, b): return a + b", RIGHT),
        ("def add(a, b): return tuple(a + b) if isinstance(a, list) else a + b", RIGHT),
        ("def add(a, b): return a", WRONG),
        ("def plus(a, b): return a + b", WRONG),
        ("class A:\n    def __eq__(self, other): return True\ndef add(a, b): return A()", WRONG),
        ("def add(a, b): raise SystemExit", WRONG),
    ],
)
def test_calls_are_compared_outside(program, outcome, sandbox):
    """A program's own definition of equality does not count outside of its process."""
    assert grade_program(CALLS, f"```python\n{program}\n```", sandbox, LIMITS).outcome == outcome


@needs_bubblewrap
def test_results_must_be_those_of_the_reference_solution(sandbox):
    tests = expect(COMPARE, sandbox, LIMITS)
    right = grade_program(tests, "```python\ndef half(x): return x * 0.5\n```", sandbox, LIMITS)
    assert right.outcome == RIGHT
    assert "all 2 calls agree" in right.why
    assert "1 left out" in right.why
    wrong = grade_program(tests, "```python\ndef half(x): return x // 2\n```", sandbox, LIMITS)
    assert wrong.why == "half(3): expected 1.5, found 1"


EVALPLUS = [  # result, expected, atol, same
    (1, 1, 0, True), (1, 2, 0, False), (1, 1.0, 0, True), ([1, 2], (1, 2), 0, False),
    (0.1 + 0.2, 0.3, 0, True), (0.3001, 0.3, 0, False), (0.3001, 0.3, 1e-3, True),
    ([0.1 + 0.2], [0.3], 0, True), ((0.3,), [0.3 + 1e-9], 0, False), ("a", "a", 0, True),
    (float("nan"), float("nan"), 0, False), ({1: 0.3}, {1: 0.1 + 0.2}, 0, False),
    (None, 0, 0, False), (True, 1, 0, True), ("x", 0.3, 0, False), ([0.3, "x"], [0.3, 0.3], 0, False),
]  # fmt: skip


@pytest.mark.parametrize(("result", "expected", "atol", "same"), EVALPLUS)
def test_the_rules_of_evalplus(result, expected, atol, same):
    tests = {"task": "HumanEval/1", "function": "f", "atol": atol}
    assert same_result(result, expected, tests, []) == same


def test_the_exceptions_of_evalplus():
    mbpp = {"task": "Mbpp/2", "atol": 0}
    assert same_result((4, 5), [5, 4], mbpp | {"function": "similar_elements"}, [])
    assert not same_result((4, 5), [5, 4], mbpp | {"function": "other"}, [])
    assert same_result(True, Opaque("Match", "m"), mbpp | {"function": "check_str"}, [])
    assert not same_result(None, Opaque("Match", "m"), mbpp | {"function": "check_str"}, [])
    root = {"task": "HumanEval/32", "function": "find_zero", "atol": 1e-4}
    assert same_result(1.0, 3.0, root, [[-6, 11, -6, 1]])
    assert not same_result(1.5, 3.0, root, [[-6, 11, -6, 1]])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary()
    | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple)
    | st.dictionaries(st.text() | st.integers(), inner)
    | st.frozensets(st.integers() | st.text()) | st.sets(st.integers()),
    max_leaves=12,
)  # fmt: skip


def kinds(value):
    """The types at every depth of a value. The order within a set does not matter."""
    if isinstance(value, dict):
        return dict, [(kinds(k), kinds(v)) for k, v in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [kinds(item) for item in value]
    return type(value)


@given(VALUES)
def test_values_cross_the_wall_unchanged(value):
    back = decode(json.loads(json.dumps(encode(value))))
    assert back == value
    assert kinds(back) == kinds(value)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda i: st.lists(i), max_leaves=8))
def test_what_is_no_encoding_is_refused_or_read_but_never_run(result):
    with contextlib.suppress(ValueError, TypeError, IndexError, OverflowError):
        decode(result)


@pytest.mark.parametrize(
    ("result", "expected", "same"),
    [
        ("3", "3\n", True), ("3 \n\n", "3", True), ("3\n4", "3\n4\n", True), ("3 4", "3\n4", False),
        ("1.50", "1.5", True), ("1e3", "1000", True), ("1.5000001", "1.5", False), ("yes", "YES", False),
        ("a  b", "a b", True), ("1_0", "10", False), ("\u0665", "5", False), ("", "", True), ("", "1", False), ("nan", "nan", True), ("3\n4", "3", False),
    ],
)  # fmt: skip
def test_outputs(result, expected, same):
    assert same_output(result, expected) == same


def test_every_file_that_decides_a_verdict_is_in_its_version(monkeypatch):
    """An edited grader must not reuse its earlier verdicts."""
    seen = []
    monkeypatch.setattr(grading, "fingerprint", seen.append)
    grading.grader_version("code", Evaluate().sandbox)
    result = [value for value in seen[0].values() if isinstance(value, str)]
    home = Path(grading.__file__).parent
    deciding = [
        "maths.py", "math_text.py", "extract.py", "programs.py", "evalplus.py", "verdict.py",
    ]  # fmt: skip
    files = [home / name for name in deciding] + list((home.parent / "sandbox/inside").glob("*.py"))
    assert {hash_file(path) for path in files} <= set(result)


CODE = Benchmark(name="c", grader="code", problems=Problems(file="x"))


def answers(programs):
    tests = {"tests": {"kind": "asserts", "function": "add", "tests": "assert add(1, 2) == 3"}}
    return [GradeRequest("c/1", tests, f"```python\n{program}\n```", True) for program in programs]


@needs_bubblewrap
def test_many_programs_at_once_are_each_judged_by_themselves():
    right, wrong = "def add(a, b): return a + b", "def add(a, b): return a - b"
    loop = "def add(a, b):\n    while True: pass"
    programs = [f"# {i}\n{(right, wrong, right, loop if i % 40 == 3 else wrong)[i % 4]}" for i in range(120)]  # fmt: skip
    settings = Evaluate(graders=4, sandbox=SandboxLimits(cpu_seconds=1))
    outcomes = [verdict.outcome for verdict in grade_completions(answers(programs), CODE, settings)]
    assert outcomes == [RIGHT, WRONG] * 60


@needs_bubblewrap
def test_grading_that_was_stopped_goes_on_where_it_was(monkeypatch):
    """After an interruption at twenty programs, the next attempt grades only the rest."""
    programs = [f"# {i}\ndef add(a, b): return a + b" for i in range(60)]
    graded = []

    def stop(amount, note):
        graded.append(amount)
        if len(graded) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grade_completions(answers(programs), CODE, Evaluate(), advance=stop)
    asked = []
    real = grading.grade_code
    monkeypatch.setattr(
        grading, "grade_code", lambda a, waiting, *s: (asked.append(len(waiting)), real(a, waiting, *s))[1]
    )  # fmt: skip
    result = grade_completions(answers(programs), CODE, Evaluate())
    assert [verdict.outcome for verdict in result] == [RIGHT] * 60
    assert asked[0] <= 40


@pytest.fixture
def full_machine(monkeypatch):
    """``refuse(job, times)``: the next runs of a job end because the machine has no memory."""
    left: dict[str, int] = {}
    real = Sandbox.run

    def run(self, job, limits):
        for text in left:
            if text in job["program"] and left[text]:
                left[text] -= 1
                return Ended("machine")
        return real(self, job, limits)

    monkeypatch.setattr(Sandbox, "run", run)
    monkeypatch.setattr(grade_workers, "wait_for_memory", lambda: None)
    return left.__setitem__


@needs_bubblewrap
@pytest.mark.parametrize(("times", "outcome"), [(1, RIGHT), (2, RIGHT), (99, NOT_GRADED)])
def test_what_the_machine_did_is_no_verdict(full_machine, times, outcome):
    full_machine("sum(xs)", times)
    programs = [WHOLE, "def total(xs): return 0"]
    requests = [GradeRequest("h/1", {"tests": HUMANEVAL}, p, True) for p in programs]
    benchmark = Benchmark(name="c", grader="code", problems=Problems(file="c.jsonl"))
    verdicts = grade_completions(requests, benchmark, Evaluate(graders=4))
    assert [v.outcome for v in verdicts] == [outcome, WRONG]
    full_machine("sum(xs)", 0)  # nothing that the machine did was kept
    verdicts = grade_completions(requests, benchmark, Evaluate())
    assert [v.outcome for v in verdicts] == [RIGHT, WRONG]


@needs_bubblewrap
def test_a_reference_solution_that_the_machine_stopped_leaves_no_test_out(full_machine):
    full_machine(COMPARE["solution"], 99)
    requests = [GradeRequest("h/1", {"tests": COMPARE}, "def half(x): return x * 0.5", True)]
    benchmark = Benchmark(name="c", grader="code", problems=Problems(file="c.jsonl"))
    (verdict,) = grade_completions(requests, benchmark, Evaluate())
    assert verdict.outcome == NOT_GRADED and "reference solution" in verdict.why
    full_machine(COMPARE["solution"], 0)
    (verdict,) = grade_completions(requests, benchmark, Evaluate())
    assert verdict.outcome == RIGHT


def test_samples_that_were_not_graded_are_counted_and_never_right():
    tally = summarise({"p": [Verdict(RIGHT), Verdict(NOT_GRADED)], "q": [Verdict(RIGHT)] * 2})
    assert (tally.right, tally.not_graded, tally.outcomes["p"]) == (3, 1, "rn")
    assert tally.accuracy == 0.75
