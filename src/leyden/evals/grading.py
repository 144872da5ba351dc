"""Grade many completions: each once, side by side, going on from wherever grading stopped."""

import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from leyden.data.prompt_set import BENCHMARK, RenderedPrompt
from leyden.evals.cache import VerdictCache, verdict_key
from leyden.evals.grade_workers import GradeRequest, code_backend, grade_code, grade_maths
from leyden.evals.graders import apply_grader, load_checker, load_grader
from leyden.evals.judge import EXACT, Judge
from leyden.evals.maths import PERCENT
from leyden.evals.problems import problem_of
from leyden.evals.run_program import sandbox_for_graders
from leyden.evals.verdict import RIGHT, TRUNCATED, WRONG, Verdict
from leyden.provenance.identity import fingerprint, hash_file
from leyden.recipe.benchmarks import BUILT_IN_GRADERS, Benchmark, Evaluate, SandboxLimits

SOURCES = (
    "maths.py", "math_answer.py", "math_exact.py", "math_numbers.py", "math_sets.py",
    "math_text.py", "boxes.py", "problems.py", "extract.py", "fences.py",
    "programs.py", "asserts.py", "judge.py", "evalplus.py", "verdict.py",
)  # fmt: skip
MATH_PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy")
Put = Callable[[int, Verdict], None]
"""Takes the verdict of the request at an index."""


def grade_completions(
    requests: Sequence[GradeRequest],
    benchmark: Benchmark,
    settings: Evaluate,
    *,
    advance: Callable[[int, str], None] = lambda amount, note: None,
) -> list[Verdict]:
    """A verdict per completion, in order.

    A completion that was cut at its cap is TRUNCATED whatever it holds. Verdicts of built-in
    graders are kept in the user's cache, so that stopped grading goes on, and nothing is graded
    twice. ``advance`` is told how many more are graded, and the accuracy so far.
    """
    board = _Board(len(requests), advance)
    for index, request in enumerate(requests):
        if not request.finished:
            board.put(index, Verdict(TRUNCATED, why="cut at the length cap, no stop token"))
    waiting = [i for i, request in enumerate(requests) if request.finished]
    if benchmark.grader in ("math", "code"):
        _grade_cached(requests, waiting, benchmark, settings, board.put)
    else:
        with sandbox_for_graders(settings):
            _grade_here(requests, waiting, benchmark.grader, board.put)
    return board.verdicts


def check_graders(settings: Evaluate) -> None:
    """Raise ConfigError where a benchmark could not be graded: no such grader, or no sandbox."""
    graders = [benchmark.grader for benchmark in settings.benchmarks]
    for benchmark in settings.benchmarks:
        if benchmark.grader not in ("math", "code"):
            load_grader(benchmark.grader)
        judge_of(benchmark)
    if "code" in graders:
        code_backend(settings)


def try_graders(settings: Evaluate, problems: Sequence[RenderedPrompt]) -> None:
    """Let each grader and checker of the user's judge an empty answer to its first problem. Raises
    ConfigError where one cannot, before anything is sampled."""
    firsts = {problem.split: problem for problem in reversed(problems)}
    for benchmark in settings.benchmarks:
        first = firsts.get(BENCHMARK + benchmark.name)
        if first is None:
            continue
        if benchmark.grader not in BUILT_IN_GRADERS:
            grader, where = load_grader(benchmark.grader), f"{benchmark.grader} on an empty answer"
            with sandbox_for_graders(settings):
                apply_grader(grader, problem_of(first), "", where=where)
        if benchmark.checker and (cases := first.row["tests"].get("cases")):
            nothing = "" if first.row["tests"]["kind"] == "stdio" else None
            load_checker(benchmark.checker)(cases[0][0], nothing, cases[0][1])


def judge_of(benchmark: Benchmark) -> Judge:
    """The rules by which a benchmark's outputs and results are compared."""
    return Judge(
        float_tolerance=benchmark.float_tolerance,
        any_order=benchmark.any_order,
        ignore_case=benchmark.ignore_case,
        checker=load_checker(benchmark.checker) if benchmark.checker else None,
    )


class _Board:
    """The verdicts so far."""

    def __init__(self, total: int, advance: Callable[[int, str], None]) -> None:
        self.total, self.advance, self.right = total, advance, 0
        self.by_index: dict[int, Verdict] = {}

    def put(self, index: int, verdict: Verdict) -> None:
        self.by_index[index] = verdict
        self.right += verdict.outcome == RIGHT
        self.advance(1, f"{100 * self.right / len(self.by_index):.1f}% right")

    @property
    def verdicts(self) -> list[Verdict]:
        """All of them, in order."""
        return [self.by_index[i] for i in range(self.total)]


def _grade_here(requests: Sequence[GradeRequest], waiting: list[int], name: str, put: Put) -> None:
    """Grade by a user's function, or ``exact``, one after the other in this process."""
    grader, short = load_grader(name), name.rpartition("/")[2]
    for i in waiting:
        request = requests[i]
        where = f"{name} on {request.prompt_id}"
        right, reason = apply_grader(grader, request.problem, request.text, where=where)
        put(i, Verdict(RIGHT if right else WRONG, why=reason or f"said {short}"))


def _grade_cached(
    requests: Sequence[GradeRequest],
    waiting: list[int],
    benchmark: Benchmark,
    settings: Evaluate,
    put: Put,
) -> None:
    """Grade by a built-in grader what the cache does not know."""
    version, cache = _version(benchmark, settings.sandbox), VerdictCache()
    problems = {requests[i].prompt_id: requests[i].problem for i in waiting}
    digests = {name: digest(_decides(problem)) for name, problem in problems.items()}
    keys = {
        i: verdict_key(version, digests[requests[i].prompt_id], requests[i].text) for i in waiting
    }
    try:
        known = cache.find(keys.values())
        firsts: dict[str, int] = {}  # of equal completions of one problem, one is graded
        for i, key in keys.items():
            if key not in known:
                firsts.setdefault(key, i)
        for i, verdict in _grade(requests, list(firsts.values()), benchmark, settings):
            known[keys[i]] = verdict
            cache.keep(keys[i], verdict)
            put(i, verdict)
        for i, key in keys.items():
            if firsts.get(key) != i:
                put(i, known[key])
    finally:
        cache.close()


def _grade(
    requests: Sequence[GradeRequest], indices: list[int], benchmark: Benchmark, settings: Evaluate
) -> Iterator[tuple[int, Verdict]]:
    if benchmark.grader == "math":
        return grade_maths(requests, indices, settings)
    judge = judge_of(benchmark)
    return grade_code(requests, indices, settings, *[judge] * (judge != EXACT))


def _version(benchmark: Benchmark, sandbox: SandboxLimits) -> str:
    """The grader's version, and the benchmark's own rules if it has any."""
    rules = {
        name: value
        for name in ("float_tolerance", "any_order", "ignore_case")
        if (value := getattr(benchmark, name))
    }
    if benchmark.checker:
        path, _, function = benchmark.checker.rpartition(":")
        rules["checker"] = [hash_file(Path(path)), function]
    version = grader_version(benchmark.grader, sandbox)
    return fingerprint([version, rules]) if rules else version


def _decides(problem: dict[str, Any]) -> Any:
    """The part of a problem that decides its verdicts."""
    if "tests" in problem:
        return problem["tests"]
    percent = PERCENT.search(problem.get("prompt", "")) is not None
    return [problem["answer"], "percent"] if percent else problem["answer"]


def digest(question: Any) -> str:
    """Hash a problem or its tests, which may hold values that JSON lacks, such as NaN."""
    return hashlib.sha256(json.dumps(question, sort_keys=True, default=str).encode()).hexdigest()


def grader_version(grader: str, sandbox: SandboxLimits) -> str:
    """Hash everything beside problem and completion that decides a verdict: our code, its
    libraries, the limits."""
    here = Path(__file__).parent
    parts: dict[str, Any] = {name: hash_file(here / name) for name in SOURCES}
    if grader == "math":
        parts |= {name: importlib.metadata.version(name) for name in MATH_PACKAGES}
    else:
        inside = here.parent / "sandbox" / "inside"
        parts |= {f"inside/{path.name}": hash_file(path) for path in inside.glob("*.py")}
        parts |= {"python": sys.version.split()[0], "limits": sandbox.identity()}
    return fingerprint(parts)
