"""Grade many completions: in parallel, each once, and from wherever it stopped."""

import hashlib
import importlib.metadata
import json
import os
import queue
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from leyden.evals.cache import VerdictCache, verdict_key
from leyden.evals.graders import apply_grader, load_grader
from leyden.evals.maths import grade_math, prepare_worker
from leyden.evals.programs import expect, grade_program
from leyden.evals.verdict import RIGHT, TRUNCATED, WRONG, Verdict
from leyden.provenance.identity import fingerprint, hash_file
from leyden.recipe.benchmarks import Benchmark, Evaluate, SandboxLimits
from leyden.sandbox.backends import Backend
from leyden.sandbox.client import Limits, Sandbox
from leyden.sandbox.selftest import sound_backend

MATH_SECONDS = 20  # hard limit of one answer; math-verify has its own of 5 s for each step
SOURCES = ("maths.py", "math_text.py", "programs.py", "evalplus.py", "verdict.py")
MATH_PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy")
Grade = Callable[[int, Verdict], None]


@dataclass(frozen=True)
class Answer:
    """A completion and what it answers. ``problem``: the prompt file's row, with ``answer`` or
    ``tests``; ``finished`` is False where the completion was cut at its cap."""

    prompt_id: str
    problem: dict[str, Any]
    text: str
    finished: bool


def grade_answers(
    answers: Sequence[Answer],
    benchmark: Benchmark,
    settings: Evaluate,
    *,
    advance: Callable[[int, str], None] = lambda amount, note: None,
) -> list[Verdict]:
    """A verdict per answer, in order. ``advance`` is told how many more are graded, and the score
    so far.

    An answer cut at its cap is TRUNCATED whatever it says. Verdicts of built-in graders are kept
    in the user's cache, so that a run which was stopped goes on, and nothing is graded twice.
    """
    board = _Board(len(answers), advance)
    for index, answer in enumerate(answers):
        if not answer.finished:
            board.put(index, Verdict(TRUNCATED, why="cut at the length cap, no stop token"))
    waiting = [i for i, answer in enumerate(answers) if answer.finished]
    if benchmark.grader in ("math", "code"):
        _grade_cached(answers, waiting, benchmark, settings, board.put)
    else:
        _grade_here(answers, waiting, benchmark.grader, board.put)
    return board.verdicts()


def check_graders(settings: Evaluate) -> None:
    """Raise ConfigError where a benchmark could not be graded: no such grader, or no sandbox."""
    graders = [benchmark.grader for benchmark in settings.benchmarks]
    for name in graders:
        if name not in ("math", "code"):
            load_grader(name)
    if "code" in graders:
        code_backend(settings)


class _Board:
    """The verdicts so far."""

    def __init__(self, total: int, advance: Callable[[int, str], None]) -> None:
        self.found: list[Verdict | None] = [None] * total
        self.advance, self.done, self.right = advance, 0, 0

    def put(self, index: int, verdict: Verdict) -> None:
        self.found[index] = verdict
        self.done += 1
        self.right += verdict.outcome == RIGHT
        self.advance(1, f"{100 * self.right / self.done:.1f}% right")

    def verdicts(self) -> list[Verdict]:
        return [verdict for verdict in self.found if verdict is not None]


def _grade_here(answers: Sequence[Answer], waiting: list[int], name: str, put: Grade) -> None:
    """A user's function, or ``exact``: one after the other in this process."""
    grader, short = load_grader(name), name.rpartition("/")[2]
    for i in waiting:
        right = apply_grader(
            grader, answers[i].problem, answers[i].text, where=f"{name} on {answers[i].prompt_id}"
        )
        put(i, Verdict(RIGHT if right else WRONG, why=f"said {short}"))


def _grade_cached(
    answers: Sequence[Answer],
    waiting: list[int],
    benchmark: Benchmark,
    settings: Evaluate,
    put: Grade,
) -> None:
    version, cache = grader_version(benchmark.grader, settings.sandbox), VerdictCache()
    questions = {answers[i].prompt_id: answers[i].problem for i in waiting}
    kept = {name: digest(_decides(problem)) for name, problem in questions.items()}
    keys = {i: verdict_key(version, kept[answers[i].prompt_id], answers[i].text) for i in waiting}
    try:
        known = cache.find(keys.values())
        firsts: dict[str, int] = {}  # of equal answers to one question, one is graded
        for i, key in keys.items():
            if key not in known:
                firsts.setdefault(key, i)
        grade = _grade_maths if benchmark.grader == "math" else _grade_code
        for i, verdict in grade(answers, list(firsts.values()), settings):
            known[keys[i]] = verdict
            cache.keep(keys[i], verdict)
            put(i, verdict)
        for i, key in keys.items():
            if firsts.get(key) != i:
                put(i, known[key])
    finally:
        cache.close()


def _decides(problem: dict[str, Any]) -> Any:
    return problem["tests"] if "tests" in problem else problem["answer"]


def digest(question: Any) -> str:
    """Like a fingerprint, of what may hold what JSON has no word for, such as NaN in tests."""
    return hashlib.sha256(json.dumps(question, sort_keys=True, default=str).encode()).hexdigest()


def grader_version(grader: str, sandbox: SandboxLimits) -> str:
    """What decides a verdict beside question and answer: our code, its libraries, the limits."""
    here = Path(__file__).parent
    parts: dict[str, Any] = {name: hash_file(here / name) for name in SOURCES}
    if grader == "math":
        parts |= {name: importlib.metadata.version(name) for name in MATH_PACKAGES}
    else:
        inside = here.parent / "sandbox" / "inside"
        parts |= {f"inside/{path.name}": hash_file(path) for path in inside.glob("*.py")}
        parts |= {"python": sys.version.split()[0], "limits": sandbox.identity()}
    return fingerprint(parts)


def num_graders(settings: Evaluate) -> int:
    return settings.graders or len(os.sched_getaffinity(0))


def _grade_maths(
    answers: Sequence[Answer], waiting: list[int], settings: Evaluate
) -> Iterator[tuple[int, Verdict]]:
    """In processes that may hang or die: then the answer is wrong, and the next gets a new one."""
    if not waiting:
        return
    pool = ProcessPool(
        max_workers=min(num_graders(settings), len(waiting)),
        initializer=prepare_worker,
        context=get_context("spawn"),
    )
    with pool:
        futures: dict[Future, int] = {
            pool.schedule(
                grade_math,
                args=(answers[i].problem["answer"], answers[i].text),
                timeout=MATH_SECONDS,
            ): i
            for i in waiting
        }
        try:
            for future in as_completed(futures):
                yield futures[future], _result(future)
        finally:
            pool.stop()


def _result(future: Future) -> Verdict:
    try:
        return future.result()
    except TimeoutError:
        return Verdict(WRONG, why=f"not compared within {MATH_SECONDS} s", lasting=False)
    except (ProcessExpired, MemoryError) as error:
        why = f"the comparison took its process down: {type(error).__name__}"
        return Verdict(WRONG, why=why, lasting=False)


def _grade_code(
    answers: Sequence[Answer], waiting: list[int], settings: Evaluate
) -> Iterator[tuple[int, Verdict]]:
    """In one sandbox per thread; the threads only wait for them."""
    if not waiting:
        return
    limits = program_limits(settings.sandbox)
    with _sandboxes(settings, len(waiting)) as (threads, run, renew):
        questions = {answers[i].prompt_id: answers[i] for i in waiting}
        tests = _with_expectations(questions, limits, threads, run)
        renew()  # where reference solutions ran, nothing of their answers may be found

        def grade(i: int) -> Verdict:
            question = tests[answers[i].prompt_id]
            return run(lambda sandbox: _judge(question, answers[i].text, sandbox, limits))

        futures = {threads.submit(grade, i): i for i in waiting}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _with_expectations(
    problems: dict[str, Answer], limits: Limits, threads: ThreadPoolExecutor, run: Callable
) -> dict[str, dict[str, Any]]:
    """Tests by problem; where a reference solution decides, with what it answers."""
    tests = {name: answer.problem["tests"] for name, answer in problems.items()}
    futures = {
        name: threads.submit(run, lambda s, t=found: expect(t, s, limits))
        for name, found in tests.items()
        if found["kind"] == "compare"
    }
    return tests | {name: future.result() for name, future in futures.items()}


def _judge(question: dict[str, Any], text: str, sandbox: Sandbox, limits: Limits) -> Verdict:
    """Whatever a program's answer does to us, the other programs are graded."""
    try:
        return grade_program(question, text, sandbox, limits)
    except Exception as error:
        why = f"its answer could not be judged: {type(error).__name__}: {str(error)[:100]}"
        return Verdict(WRONG, why=why, lasting=False)


@contextmanager
def _sandboxes(
    settings: Evaluate, most: int
) -> Iterator[tuple[ThreadPoolExecutor, Callable, Callable]]:
    """Threads; ``run(work)``, which gives ``work`` a sandbox that no other thread has; and
    ``renew()``, after which every sandbox is a new one."""
    backend = code_backend(settings)
    count = min(num_graders(settings), most)
    free: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
    sandboxes = [Sandbox(backend, slot) for slot in range(count)]
    for sandbox in sandboxes:
        free.put(sandbox)

    def run(work: Callable[[Sandbox], Any]) -> Any:
        sandbox = free.get()
        try:
            return work(sandbox)
        finally:
            free.put(sandbox)

    def renew() -> None:
        for sandbox in sandboxes:
            sandbox.close()

    threads = ThreadPoolExecutor(count)
    try:
        yield threads, run, renew
    finally:
        threads.shutdown(cancel_futures=True)
        renew()


def code_backend(settings: Evaluate) -> Backend:
    """A sandbox that has passed its self-test. Raises ConfigError where there is none."""
    sandbox = settings.sandbox
    return sound_backend(
        sandbox.image, memory_mb=sandbox.memory_mb, allow_bare=settings.allow_unsandboxed_code
    )


def program_limits(sandbox: SandboxLimits) -> Limits:
    return Limits(
        cpu_seconds=sandbox.cpu_seconds,
        wall_seconds=sandbox.wall_seconds,
        memory_bytes=sandbox.memory_mb << 20,
        processes=sandbox.processes,
    )
