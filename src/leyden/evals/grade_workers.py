"""Grade completions side by side: mathematics in processes, programs in sandboxes."""

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from pebble import ProcessExpired, ProcessPool

from leyden.errors import LeydenError
from leyden.evals.judge import EXACT, Judge
from leyden.evals.maths import grade_math, prepare_worker
from leyden.evals.programs import expect, grade_program
from leyden.evals.verdict import NOT_GRADED, WRONG, Verdict
from leyden.recipe.benchmarks import Evaluate, SandboxLimits
from leyden.run.environment import usable_cpus
from leyden.sandbox.backends import Backend
from leyden.sandbox.client import Limits, Sandbox
from leyden.sandbox.memory import wait_for_memory
from leyden.sandbox.selftest import sound_backend

MATH_SECONDS = 20  # hard limit of one comparison; math-verify has its own of 5 s for each step


@dataclass(frozen=True)
class GradeRequest:
    """A completion to grade.

    ``problem`` is the prompt file's row, with ``answer`` or ``tests``. ``finished`` is False where
    the completion was cut at its cap.
    """

    prompt_id: str
    problem: dict[str, Any]
    text: str
    finished: bool


def num_graders(settings: Evaluate) -> int:
    """The number of completions that are graded at the same time."""
    return settings.graders or usable_cpus()


def grade_maths(
    requests: Sequence[GradeRequest], waiting: Sequence[int], settings: Evaluate
) -> Iterator[tuple[int, Verdict]]:
    """(index, verdict) of the requests ``waiting``, each in a process that may hang or die.

    A completion whose process dies again when it is graded by fewer is wrong.
    """
    if not waiting:
        return

    def grade_all(indices: Sequence[int]) -> Iterator[tuple[int, Verdict]]:
        pool = ProcessPool(
            max_workers=min(num_graders(settings), len(indices)),
            initializer=prepare_worker,
            context=get_context("spawn"),
        )
        with pool:
            futures: dict[Future, int] = {
                pool.schedule(
                    grade_math,
                    args=(
                        requests[i].problem["answer"],
                        requests[i].text,
                        requests[i].problem.get("prompt", ""),
                    ),
                    timeout=MATH_SECONDS,
                ): i
                for i in indices
            }
            try:
                for future in as_completed(futures):
                    yield futures[future], _result(future)
            finally:
                pool.stop()

    yield from _with_patience(waiting, grade_all, num_graders(settings))


def _result(future: Future) -> Verdict:
    try:
        return future.result()
    except TimeoutError:
        return Verdict(WRONG, why=f"not compared within {MATH_SECONDS} s", lasting=False)
    except (ProcessExpired, MemoryError) as error:
        why = f"the comparison took its process down: {type(error).__name__}"
        return Verdict(WRONG, why=why, lasting=False)


def grade_code(
    requests: Sequence[GradeRequest],
    waiting: Sequence[int],
    settings: Evaluate,
    judge: Judge = EXACT,
) -> Iterator[tuple[int, Verdict]]:
    """(index, verdict) of the requests ``waiting``, in a sandbox per thread; threads only wait."""
    if not waiting:
        return
    limits = program_limits(settings.sandbox)
    with _sandboxes(settings, len(waiting)) as (threads, run, renew):
        questions = {requests[i].prompt_id: requests[i] for i in waiting}
        tests = _with_expectations(questions, limits, threads, run)
        renew()  # reference solutions ran here, and programs must not come across their results

        def grade(i: int) -> Verdict:
            question = tests[requests[i].prompt_id]
            return run(lambda sandbox: _judge(question, requests[i].text, sandbox, limits, judge))

        def grade_all(indices: Sequence[int]) -> Iterator[tuple[int, Verdict]]:
            futures = {threads.submit(grade, i): i for i in indices}
            for future in as_completed(futures):
                yield futures[future], future.result()

        yield from _with_patience(waiting, grade_all, num_graders(settings))


GradeAll = Callable[[Sequence[int]], Iterator[tuple[int, Verdict]]]


def _with_patience(
    waiting: Sequence[int], grade_all: GradeAll, most: int
) -> Iterator[tuple[int, Verdict]]:
    """Grade ``waiting`` side by side, and what a busy machine may have spoilt again: by half as
    many at a time and, where the machine still gives no verdict, one by one."""
    spoilt = []
    for i, verdict in grade_all(waiting):
        if verdict.lasting:
            yield i, verdict
        else:
            spoilt.append(i)
    for number, last in ((max(1, most // 2), False), (1, True)):
        again, spoilt = spoilt, []
        for start in range(0, len(again), number):
            wait_for_memory()
            for i, verdict in grade_all(again[start : start + number]):
                if verdict.outcome != NOT_GRADED or last:
                    yield i, verdict
                else:
                    spoilt.append(i)


def _with_expectations(
    questions: dict[str, GradeRequest], limits: Limits, threads: ThreadPoolExecutor, run: Callable
) -> dict[str, dict[str, Any]]:
    """Tests by problem; where a reference solution decides, with its results."""
    tests = {name: request.problem["tests"] for name, request in questions.items()}
    futures = {
        name: threads.submit(run, lambda sandbox, own=own: expect(own, sandbox, limits))
        for name, own in tests.items()
        if own["kind"] in ("compare", "asserts")
    }
    return tests | {name: future.result() for name, future in futures.items()}


def _judge(
    question: dict[str, Any], text: str, sandbox: Sandbox, limits: Limits, judge: Judge
) -> Verdict:
    """Grade one program. Whatever its result does to us, the other programs are graded."""
    try:
        return grade_program(question, text, sandbox, limits, judge)
    except LeydenError:  # of a checker of the user's
        raise
    except Exception as error:
        why = f"its result could not be judged: {type(error).__name__}: {str(error)[:100]}"
        return Verdict(WRONG, why=why, lasting=False)


@contextmanager
def _sandboxes(
    settings: Evaluate, most: int
) -> Iterator[tuple[ThreadPoolExecutor, Callable, Callable]]:
    """Gives threads; ``run(work)``, which gives ``work`` a sandbox that no other thread has; and
    ``renew()``, which replaces every sandbox by a new one."""
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
    """The recipe's limits of a program, in bytes and seconds."""
    return Limits(
        cpu_seconds=sandbox.cpu_seconds,
        wall_seconds=sandbox.wall_seconds,
        memory_bytes=sandbox.memory_mb << 20,
        processes=sandbox.processes,
    )
