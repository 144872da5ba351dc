"""Is a program right? Its tests decide, run in the sandbox; results are compared out here."""

import ast
import math
import re
import signal
import textwrap
import threading
from dataclasses import replace
from decimal import Decimal
from typing import Any

from leyden.evals.evalplus import same_result
from leyden.evals.verdict import RIGHT, UNPARSED, WRONG, Verdict, final_part
from leyden.sandbox.client import Ended, Limits, Sandbox
from leyden.sandbox.inside.values import decode, encode

Tests = dict[str, Any]
CALLS_AT_ONCE = 20  # of those compared with a reference: one process, one time limit
PATIENCE = 4  # times the reference's own time, where that is more than the limit; as EvalPlus
MOST_LONGER = 20  # times what is expected: such an output is not read
REFERENCE = 3  # times the limits of a program, for the solution that says what is right
PASSING = ("wall", "sandbox", "setup", "machine")  # which a busy machine can bring about
BLOCK = re.compile(r"(?sm)^([ \t]*)(```|~~~)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\2[ \t]*$|\Z)")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
NEXT_PART = re.compile(r"\n(?:class |def |#|@|if |print|```)")  # HumanEval's stop sequences


def grade_program(tests: Tests, completion: str, sandbox: Sandbox, limits: Limits) -> Verdict:
    """Run the program in ``completion`` against ``tests`` (the kinds of data/code_tests.py)."""
    program = extract_program(completion, tests)
    if program is None:
        return Verdict(UNPARSED, why="no program: no code block, and the text is not Python")
    judge = {"asserts": _asserts, "stdio": _stdio, "calls": _calls, "compare": _compare}
    return judge[tests["kind"]](tests, program, sandbox, limits)


def extract_program(completion: str, tests: Tests) -> str | None:
    """The last code block, one that defines the tested function before others; else the text.

    Where the prompt began the program (HumanEval), that beginning goes before it.
    """
    text, function = final_part(completion), tests.get("function")
    prefix, blocks = tests.get("prefix", ""), _code_blocks(text)
    if blocks:
        wanted = [function] if function else _tested_names(tests)
        defining = [code for code in blocks if any(_defines(code, name) for name in wanted)]
        going_on = [code for code in blocks if prefix and code[:1].isspace() and not _parses(code)]
        return _after(prefix, (defining or going_on or blocks)[-1])
    if _parses(text) and (not function or _defines(text, function)):
        return _after(prefix, text)
    begun = next((t for t in (text, NEXT_PART.split(text)[0]) if _parses(prefix + t)), None)
    return prefix + begun if prefix and begun is not None and begun.strip() else None


def _code_blocks(text: str) -> list[str]:
    """Python's blocks; without any, those that name no language (often they show output)."""
    found = [
        (tag.lower(), textwrap.dedent(code) if indent else code)  # in a list all is indented
        for indent, _, tag, code in BLOCK.findall(text)
    ]
    tagged = [code for tag, code in found if tag in PYTHON]
    return tagged or [code for tag, code in found if not tag]


PYTHON = ("python", "python3", "py", "py3")


def _tested_names(tests: Tests) -> list[str]:
    """The functions that asserts call: those of them that a program defines are what is tested."""
    if tests["kind"] != "asserts":
        return []
    calls = (node for node in ast.walk(_syntax_tree(tests["tests"])) if isinstance(node, ast.Call))
    return [call.func.id for call in calls if isinstance(call.func, ast.Name)]


def _defines(code: str, function: str) -> bool:
    pattern = rf"^\s*(?:async\s+)?def\s+{re.escape(function)}\b|^class\s+Solution\b"
    assigned = rf"^{re.escape(function)}\s*="
    return bool(re.search(f"{pattern}|{assigned}", code, re.MULTILINE))


def _after(prefix: str, code: str) -> str:
    """The code behind the beginning that the prompt gave: its imports and helpers stay known."""
    if not prefix:
        return code
    if not _parses(code) and _parses(prefix + code):
        return prefix + code
    return f"{prefix}\n\n{code}" if _parses(prefix) else code


def _syntax_tree(code: str) -> ast.Module:
    with PARSING:
        return ast.parse(code)


PARSING = threading.Lock()  # two threads in ast.parse break each other on 3.11 (cpython 106905)


def _parses(code: str) -> bool:
    try:
        return bool(_syntax_tree(code).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _asserts(tests: Tests, program: str, sandbox: Sandbox, limits: Limits) -> Verdict:
    job = {"kind": "asserts", "program": program, "tests": tests["tests"]}
    ended = sandbox.run(job, limits)
    if ended.how == "done" and ended.result is True:
        return Verdict(RIGHT, why="all its tests pass")
    return _failed(ended, limits)


def _stdio(tests: Tests, program: str, sandbox: Sandbox, limits: Limits) -> Verdict:
    cases = tests["cases"]
    for number, (given, expected) in enumerate(cases, start=1):
        where = f"case {number} of {len(cases)}: "
        job = {"kind": "script", "program": program, "stdin": given}
        job["prelude"] = tests.get("prelude", "")
        ended = sandbox.run(job, limits)
        if ended.how != "done":
            return _failed(ended, limits, where)
        if not same_output(ended.output, expected):
            return _differs(where, expected, ended.output)
    return Verdict(RIGHT, why=f"all {len(cases)} cases pass")


def _calls(tests: Tests, program: str, sandbox: Sandbox, limits: Limits) -> Verdict:
    cases = tests["cases"]
    for number, (arguments, expected) in enumerate(cases, start=1):
        where = f"case {number} of {len(cases)}: "
        outcome, verdict = _results(tests, program, [encode(arguments)], sandbox, limits, where)
        if verdict is not None:
            return verdict
        found = outcome[0]
        if found[0] == "error":
            return Verdict(WRONG, why=where + str(found[1]))
        value = _as_json(_decoded(found[1]))
        wrapped = isinstance(expected, list) and len(expected) == 1 and value == expected[0]
        if value != expected and not wrapped:
            return _differs(where, expected, value)
    return Verdict(RIGHT, why=f"all {len(cases)} cases pass")


def _compare(tests: Tests, program: str, sandbox: Sandbox, limits: Limits) -> Verdict:
    """Every result must be the reference solution's, which ``expect`` has put into the tests."""
    agreed = 0
    for part in tests["expected"]:
        if not part["outcomes"]:
            continue
        cpu = max(limits.cpu_seconds, math.ceil(PATIENCE * part["cpu_seconds"]))
        wall = max(limits.wall_seconds, 2.0 * cpu)
        patient = replace(limits, cpu_seconds=cpu, wall_seconds=wall)
        outcomes, verdict = _results(tests, program, part["calls"], sandbox, patient)
        if verdict is not None:
            return verdict
        for call, found, wanted in zip(part["calls"], outcomes, part["outcomes"], strict=True):
            if wanted[0] == "error":
                continue
            if wrong := _disagrees(tests, call, found, wanted):
                return wrong
            agreed += 1
    left_out = len(tests["calls"]) - agreed
    if not agreed:
        return Verdict(WRONG, why="the problem's own reference solution answers none of its calls")
    rest = f"; {left_out} left out, which it cannot answer itself" if left_out else ""
    return Verdict(RIGHT, why=f"all {agreed} calls agree with the reference solution{rest}")


def _disagrees(tests: Tests, call: Any, found: list[Any], wanted: list[Any]) -> Verdict | None:
    arguments = decode(call)
    where = f"{tests['function']}({', '.join(_cut(argument) for argument in arguments)}): "
    if found[0] == "error":
        return Verdict(WRONG, why=where + str(found[1]))
    value, expected = _decoded(found[1]), decode(wanted[1])
    if same_result(value, expected, tests, arguments):
        return None
    return _differs(where, expected, value)


def expect(tests: Tests, sandbox: Sandbox, limits: Limits) -> Tests:
    """``tests`` of the kind ``compare`` with what the reference solution answers, part by part.

    A part that it does not answer within the limits of REFERENCE programs has no outcomes.
    """
    cpu, wall = REFERENCE * limits.cpu_seconds, REFERENCE * limits.wall_seconds
    generous, parts = replace(limits, cpu_seconds=cpu, wall_seconds=wall), []
    for start in range(0, len(tests["calls"]), CALLS_AT_ONCE):
        calls = tests["calls"][start : start + CALLS_AT_ONCE]
        ended = _call(tests, tests["solution"], calls, sandbox, generous)
        outcomes = ended.result if _answered(ended, calls) else []
        parts.append({"calls": calls, "outcomes": outcomes, "cpu_seconds": ended.cpu_seconds})
    return {**tests, "expected": parts}


def _results(
    tests: Tests, program: str, calls: list[Any], sandbox: Sandbox, limits: Limits, where: str = ""
) -> tuple[list[Any], Verdict | None]:
    """What each call gave, or why the program did not get that far."""
    ended = _call(tests, program, calls, sandbox, limits)
    if _answered(ended, calls):
        return ended.result, None
    return [], _failed(ended, limits, where)


def _call(tests: Tests, program: str, calls: list[Any], sandbox: Sandbox, limits: Limits) -> Ended:
    job = {"kind": "calls", "program": program, "function": tests["function"], "calls": calls}
    return sandbox.run(job | {"prelude": tests.get("prelude", "")}, limits)


def _answered(ended: Ended, calls: list[Any]) -> bool:
    found = ended.result
    whole = ended.how == "done" and isinstance(found, list) and len(found) == len(calls)
    return whole and all(map(_is_outcome, found))


def _is_outcome(found: Any) -> bool:
    """["value", ...] or ["error", a sentence]: a report comes from where the program was."""
    if not isinstance(found, list) or len(found) != 2:
        return False
    return found[0] == "value" or (found[0] == "error" and isinstance(found[1], str))


def _decoded(found: Any) -> Any:
    """A result of an untrusted program; what is not an encoding is equal to nothing."""
    try:
        return decode(found)
    except (ValueError, TypeError, RecursionError, IndexError, OverflowError) as error:
        return error


def _as_json(value: Any) -> Any:
    """Tuples as lists, at any depth: JSON has no others."""
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return {k: _as_json(v) for k, v in value.items()} if isinstance(value, dict) else value


def same_output(found: str, expected: str) -> bool:
    """Equal lines up to space at their ends, or equal words where numbers count by value.

    Source: LiveCodeBench, lcb_runner/evaluation/testing_util.py, which compares decimals exactly.
    """
    if len(found) > MOST_LONGER * (len(expected) + 1000):
        return False
    left = [line.strip() for line in found.strip().splitlines()]
    right = [line.strip() for line in expected.strip().splitlines()]
    if left == right:
        return True
    pairs = zip(left, right, strict=False)
    return len(left) == len(right) and all(_same_line(a, b) for a, b in pairs)


def _same_line(found: str, expected: str) -> bool:
    left, right = found.split(), expected.split()
    return len(left) == len(right) and all(map(_same_word, left, right))


def _same_word(found: str, expected: str) -> bool:
    numbers = NUMBER.fullmatch(found) and NUMBER.fullmatch(expected)
    return found == expected or (bool(numbers) and Decimal(found) == Decimal(expected))


def _differs(where: str, expected: Any, found: Any) -> Verdict:
    return Verdict(WRONG, why=f"{where}expected {_cut(expected)}, found {_cut(found)}")


def _failed(ended: Ended, limits: Limits, where: str = "") -> Verdict:
    return Verdict(WRONG, why=where + describe(ended, limits), lasting=ended.how not in PASSING)


def describe(ended: Ended, limits: Limits) -> str:
    """Why a program that ended like this is not right."""
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
