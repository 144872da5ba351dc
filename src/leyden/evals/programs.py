"""Grade programs by their tests. They run in the sandbox; results are compared outside."""

import json
import math
import signal
from dataclasses import replace
from typing import Any

from leyden.evals.asserts import judge_apart, recorded_calls
from leyden.evals.evalplus import same_result
from leyden.evals.extract import extract_program
from leyden.evals.judge import EXACT, Judge
from leyden.evals.verdict import FORGEABLE, NOT_GRADED, RIGHT, UNPARSED, WRONG, Verdict
from leyden.sandbox.client import Ended, Limits, Sandbox
from leyden.sandbox.inside.values import decode, encode
from leyden.sandbox.memory import wait_for_memory

Tests = dict[str, Any]
CALLS_AT_ONCE = 20  # calls compared with a reference, in one process under one time limit
PATIENCE = 4  # a call may take this many times the reference's own time, as in EvalPlus
TYPING = "from typing import *"
REFERENCE = 3  # the reference solution may use this many times a program's limits
MACHINE = ("setup", "machine")  # ends that nothing but the machine causes
PASSING = ("wall", "sandbox", "signal 9", *MACHINE)  # ends that a busy machine can cause


def grade_program(
    tests: Tests, completion: str, sandbox: Sandbox, limits: Limits, judge: Judge = EXACT
) -> Verdict:
    """Run the program in ``completion`` against ``tests``, of a kind of code_tests.py. The
    ``judge`` compares outputs and results with expected ones."""
    program = extract_program(completion, tests)
    if program is None:
        return Verdict(UNPARSED, why="no program: no code block, and the text is not Python")
    if tests["kind"] == "stdio":
        return _stdio(tests, program, sandbox, limits, judge)
    if tests["kind"] == "calls":
        return _calls(tests, program, sandbox, limits, judge)
    kinds = {"asserts": _asserts, "compare": _compare}
    return kinds[tests["kind"]](tests, program, sandbox, limits)


def _asserts(tests: Tests, program: str, sandbox: Sandbox, limits: Limits) -> Verdict:
    apart = judge_apart(tests, program, sandbox, limits)
    if isinstance(apart, Verdict):
        return apart
    if apart is not None:
        return _failed(apart, limits)
    job = {"kind": "asserts", "program": program, "tests": tests["tests"]}
    ended = sandbox.sibling("beside").run(job, limits)
    if ended.how == "done" and ended.result is True:
        return Verdict(RIGHT, why=FORGEABLE)
    return _failed(ended, limits)


def _stdio(tests: Tests, program: str, sandbox: Sandbox, limits: Limits, judge: Judge) -> Verdict:
    cases = tests["cases"]
    for number, (given, expected) in enumerate(cases, start=1):
        where = f"case {number} of {len(cases)}: "
        job = {"kind": "script", "program": program, "stdin": given}
        job["prelude"] = tests.get("prelude", "")
        ended = sandbox.run(job, limits)
        if ended.how != "done":
            return _failed(ended, limits, where)
        if not judge.accepts_output(given, ended.output, expected):
            return _differs(where, expected, ended.output)
    return Verdict(RIGHT, why=f"all {len(cases)} cases pass")


def _calls(tests: Tests, program: str, sandbox: Sandbox, limits: Limits, judge: Judge) -> Verdict:
    cases = tests["cases"]
    for number, (arguments, expected) in enumerate(cases, start=1):
        where = f"case {number} of {len(cases)}: "
        outcome, verdict = _results(tests, program, [encode(arguments)], sandbox, limits, where)
        if verdict is not None:
            return verdict
        kind, content = outcome[0]
        if kind == "error":
            return Verdict(WRONG, why=where + str(content))
        value = _as_json(_decoded(content))
        wrapped = isinstance(expected, list) and len(expected) == 1
        accepted = judge.accepts_value(arguments, value, expected)
        if not accepted and not (wrapped and judge.accepts_value(arguments, value, expected[0])):
            return _differs(where, expected, value)
    return Verdict(RIGHT, why=f"all {len(cases)} cases pass")


def _compare(tests: Tests, program: str, sandbox: Sandbox, limits: Limits) -> Verdict:
    """Compare every result with the reference solution's, which ``expect`` put into the tests."""
    agreed = 0
    for part in tests["expected"]:
        if part["ended"] in MACHINE:
            why = "the machine ran out of memory under the reference solution"
            return Verdict(NOT_GRADED, why=why, lasting=False)
        if not part["outcomes"]:
            continue
        cpu = max(limits.cpu_seconds, math.ceil(PATIENCE * part["cpu_seconds"]))
        wall = max(limits.wall_seconds, 2.0 * cpu)
        patient = replace(limits, cpu_seconds=cpu, wall_seconds=wall)
        outcomes, verdict = _results(tests, program, part["calls"], sandbox, patient)
        if verdict is not None:
            return verdict
        for call, outcome, expected in zip(part["calls"], outcomes, part["outcomes"], strict=True):
            if expected[0] == "error":
                continue
            if wrong := _disagrees(tests, call, outcome, expected):
                return wrong
            agreed += 1
    skipped = len(tests["calls"]) - agreed
    if not agreed:
        return Verdict(WRONG, why="the problem's own reference solution answers none of its calls")
    rest = f"; {skipped} left out, which it cannot answer itself" if skipped else ""
    return Verdict(RIGHT, why=f"all {agreed} calls agree with the reference solution{rest}")


def _disagrees(tests: Tests, call: Any, outcome: list[Any], expected: list[Any]) -> Verdict | None:
    arguments = decode(call)
    where = f"{tests['function']}({', '.join(_cut(argument) for argument in arguments)}): "
    if outcome[0] == "error":
        return Verdict(WRONG, why=where + str(outcome[1]))
    value, right = _decoded(outcome[1]), decode(expected[1])
    return None if same_result(value, right, tests, arguments) else _differs(where, right, value)


def expect(tests: Tests, sandbox: Sandbox, limits: Limits) -> Tests:
    """Add what is found out once for all programs: the calls that asserts make, and the reference
    solution's results to ``tests`` of the kind ``compare``, part by part.

    A part that it does not finish within REFERENCE times the limits has no outcomes.
    """
    if tests["kind"] == "asserts":
        return {**tests, "asked": recorded_calls(tests, sandbox, limits) or []}
    cpu, wall = REFERENCE * limits.cpu_seconds, REFERENCE * limits.wall_seconds
    generous, parts = replace(limits, cpu_seconds=cpu, wall_seconds=wall), []
    for start in range(0, len(tests["calls"]), CALLS_AT_ONCE):
        calls = tests["calls"][start : start + CALLS_AT_ONCE]
        ended = _call(tests, tests["solution"], calls, sandbox, generous)
        if ended.how in PASSING:
            wait_for_memory()
            ended = _call(tests, tests["solution"], calls, sandbox, generous)
        outcomes = ended.result if _answered(ended, calls) else []
        seconds = ended.cpu_seconds
        parts.append(
            {"calls": calls, "outcomes": outcomes, "cpu_seconds": seconds, "ended": ended.how}
        )
    return {**tests, "expected": parts}


def _results(
    tests: Tests, program: str, calls: list[Any], sandbox: Sandbox, limits: Limits, where: str = ""
) -> tuple[list[Any], Verdict | None]:
    """The outcome of each call, or why the program did not get that far."""
    ended = _call(tests, program, calls, sandbox, limits)
    if _answered(ended, calls):
        return ended.result, None
    return [], _failed(ended, limits, where)


def _call(tests: Tests, program: str, calls: list[Any], sandbox: Sandbox, limits: Limits) -> Ended:
    job = {"kind": "calls", "program": program, "function": tests["function"], "calls": calls}
    # Annotations such as List[int] are common where nothing is imported for them.
    return sandbox.run(job | {"prelude": tests.get("prelude", TYPING)}, limits)


def _answered(ended: Ended, calls: list[Any]) -> bool:
    outcomes = ended.result
    whole = ended.how == "done" and isinstance(outcomes, list) and len(outcomes) == len(calls)
    return whole and all(map(_is_outcome, outcomes))


def _is_outcome(outcome: Any) -> bool:
    """Whether this is ["value", ...] or ["error", a sentence]. The report is not trusted: it comes
    from the process that ran the program."""
    if not isinstance(outcome, list) or len(outcome) != 2:
        return False
    return outcome[0] == "value" or (outcome[0] == "error" and isinstance(outcome[1], str))


def _decoded(result: Any) -> Any:
    """The value of an untrusted result. One that is no encoding becomes an error, which equals no
    expected value."""
    try:
        return decode(result)
    except (ValueError, TypeError, RecursionError, IndexError, OverflowError) as error:
        return error


def _as_json(value: Any) -> Any:
    """The value with lists for tuples at any depth, as JSON has no tuples."""
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, dict):  # whose keys are texts in JSON
        return {k if isinstance(k, str) else json.dumps(k): _as_json(v) for k, v in value.items()}
    return value


def _differs(where: str, expected: Any, value: Any) -> Verdict:
    return Verdict(WRONG, why=f"{where}expected {_cut(expected)}, found {_cut(value)}")


def _failed(ended: Ended, limits: Limits, where: str = "") -> Verdict:
    outcome = NOT_GRADED if ended.how in MACHINE else WRONG
    return Verdict(outcome, why=where + describe(ended, limits), lasting=ended.how not in PASSING)


def describe(ended: Ended, limits: Limits) -> str:
    """The reason why a program that ended like this is not right."""
    if ended.error:
        return ended.error
    if ended.how.startswith("signal "):
        number = int(ended.how.removeprefix("signal "))
        return f"killed by {signal.Signals(number).name}" if number in SIGNALS else ended.how
    return {
        "done": "it ended before its tests had run",
        "exit": "it ended before its tests had run",
        "cpu": f"out of CPU time ({limits.cpu_seconds} s)",
        "wall": f"out of time ({limits.wall_seconds:g} s)",
        "memory": f"out of memory ({limits.memory_bytes >> 20} MiB)",
        "output": f"too much output (over {limits.output_bytes >> 20} MiB)",
        "file": f"too large a file (over {limits.file_bytes >> 20} MiB)",
        "sandbox": "it brought its sandbox down",
        "setup": "it could not be begun",
        "machine": "the machine ran out of memory beside it",
    }[ended.how]


SIGNALS = {member.value for member in signal.Signals}


def _cut(value: Any) -> str:
    try:
        shown = repr(value)
    except (ValueError, RecursionError):  # an int of too many digits; a list of too many levels
        return f"a {type(value).__name__} too large to show"
    return shown if len(shown) <= 120 else shown[:120] + "..."
