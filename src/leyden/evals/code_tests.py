"""Read the tests of a programming problem from its row, by the fields that it has.

The tests of every published benchmark become one of four kinds, the only ones that graders know:

- ``asserts``: ``tests``, statements that raise where the program is wrong; ``prefix`` goes first
- ``stdio``: ``cases`` of [standard input, expected standard output]
- ``calls``: ``cases`` of [arguments, expected result] of ``function``
- ``compare``: ``calls`` of ``function``, whose results must be those of ``solution``
"""

import ast
import base64
import io
import json
import pickle
import re
import zlib
from collections.abc import Callable
from typing import Any

from leyden.errors import ConfigError

UNREADABLE = (
    ValueError, LookupError, TypeError, AttributeError, SyntaxError, zlib.error, pickle.PickleError,
)  # fmt: skip
NUMBER = re.compile(r"\(?-?\d[-+.\de]*j?\)?").fullmatch
Row = dict[str, Any]
Tests = dict[str, Any]
# Contest judges import these before every solution; LiveCodeBench's own harness does the same.
MODULES = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random",
    "statistics", "itertools", "functools", "operator", "json", "io", "sys",
)  # fmt: skip
PRELUDE = "\n".join(
    [f"from {name} import *" for name in (*MODULES, "typing", "builtins")]
    + [f"import {', '.join(MODULES)}", "sys.setrecursionlimit(50000)"]
)
CONTEST: Tests = {"prelude": PRELUDE}
CONTAINERS = list | tuple | set | frozenset


def read_tests(row: Row, where: str) -> Tests:
    """The tests of ``row``. Raises ConfigError, naming ``where``, unless it has tests of a known
    form."""
    for field, reader in READERS.items():
        if row.get(field) not in (None, ""):
            try:
                return reader(row)
            except UNREADABLE as error:
                raise ConfigError(
                    f"{where}: its {field} cannot be read as tests: {type(error).__name__}: "
                    f"{str(error)[:200]}",
                    hint="see docs/guides/evaluating.md for the forms of tests",
                ) from error
    raise ConfigError(
        f"{where}: has no tests; it has {', '.join(map(repr, sorted(row)))}",
        hint="give it `tests` (asserts, or objects with input and output), or an `answer`",
    )


def _own(row: Row) -> Tests:
    """Read a user's ``tests``: asserts as text or as a list, or a list of input and output."""
    tests = row["tests"]
    if isinstance(tests, str):
        tests = [tests]
    if not isinstance(tests, list) or not tests:
        raise ValueError("an empty list, or none")
    if all(isinstance(test, str) for test in tests):
        return _asserts("\n".join(tests), setup=row.get("setup") or "")
    function = row.get("function") or row.get("entry_point")
    cases = [[test["input"], test["output"]] for test in tests]
    return {"kind": "calls", "function": function, "cases": cases} if function else _stdio(cases)


def _humaneval(row: Row) -> Tests:
    """Read HumanEval, HumanEval+ and MBPP+ as published: a test program, often with ``check``."""
    tests, name = row["test"], row.get("entry_point")
    if "assert" not in tests:
        raise ValueError("it asserts nothing")
    if name and "def check(" in tests:
        tests += f"\n\ncheck({name})\n"
    setup = "\n".join(row.get("test_imports") or [])
    prefix = row["prompt"] if name else ""
    return _asserts(tests, setup=setup) | {"prefix": prefix, "function": name}


def _mbpp(row: Row) -> Tests:
    setup = "\n".join([*(row.get("test_imports") or []), row.get("test_setup_code") or ""])
    return _asserts("\n".join(row["test_list"]), setup=setup)


def _asserts(tests: str, *, setup: str = "") -> Tests:
    whole = f"{setup}\n{tests}" if setup.strip() else tests
    ast.parse(whole)
    return {"kind": "asserts", "tests": whole}


def _evalplus(row: Row) -> Tests:
    """Read EvalPlus's release files: inputs, and a solution that gives the right results."""
    name, code = row["entry_point"], row["prompt"] + row["canonical_solution"]
    shapes = _shapes(row.get("assertion") or "", name)
    calls = [_shaped(call, shapes) for call in [*row["base_input"], *row["plus_input"]]]
    return {
        "kind": "compare",
        "function": name,
        "prefix": row["prompt"],
        "solution": code,
        "calls": calls,
        "atol": row["atol"],
        "task": row["task_id"],
    }


def _shapes(assertion: str, function: str) -> list[Any]:
    """The arguments of the first call in a problem's asserts, which show where JSON's lists are
    tuples."""
    for node in ast.walk(ast.parse(assertion)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == function:
            try:
                return [ast.literal_eval(argument) for argument in node.args]
            except ValueError:
                return []
    return []


def _shaped(call: list[Any], shapes: list[Any]) -> list[Any]:
    """Encoded arguments, with tuples, sets and complex numbers where the asserts have them."""
    padded = [*shapes, *[None] * len(call)]
    return ["list", [_convert(v, s, "list") for v, s in zip(call, padded, strict=False)]]


def _convert(value: Any, shape: Any, around: str) -> Any:
    """``value`` of JSON, encoded as in ``sandbox/inside/values.py``, in the types of ``shape``.

    Lists deeper than the shape goes are of the kind ``around`` them.
    """
    if isinstance(value, list):
        kind = type(shape).__name__ if isinstance(shape, CONTAINERS) else around
        each = list(shape) if isinstance(shape, CONTAINERS) else []
        if len(each) != len(value):
            nested = [item for item in each if isinstance(item, CONTAINERS | dict)]
            each = [next(iter(nested or each), None)] * len(value)
        items = zip(value, each, strict=True)
        return [kind, [_convert(v, s, kind) for v, s in items]]
    if isinstance(value, dict):
        key, inner = next(iter(shape.items())) if isinstance(shape, dict) and shape else (None,) * 2
        return ["dict", [[_key(k, key), _convert(v, inner, "list")] for k, v in value.items()]]
    if isinstance(value, str) and isinstance(shape, int | float | complex) and NUMBER(value):
        number = complex(value)  # the one kind of number that JSON writes as a text
        return ["complex", number.real.hex(), number.imag.hex()]
    return value


def _key(key: str, shape: Any) -> Any:
    return int(key) if isinstance(shape, int) and key.lstrip("-").isdigit() else key


def _livecodebench(row: Row) -> Tests:
    """Read public and private cases; LeetCode's are calls with one JSON value per line."""
    cases = json.loads(row["public_test_cases"]) + _private(row.get("private_test_cases"))
    if not cases:
        raise ValueError("no cases")
    if cases[0]["testtype"] == "stdin":
        return _stdio([[case["input"], case["output"]] for case in cases]) | CONTEST
    name = json.loads(row["metadata"])["func_name"]
    pairs = [
        [[json.loads(line) for line in case["input"].split("\n")], json.loads(case["output"])]
        for case in cases
    ]
    return {"kind": "calls", "function": name, "cases": pairs} | CONTEST


def _private(text: str | None) -> list[Row]:
    """Read JSON, or base64 of zlib of a pickled JSON text. Nothing but a text is unpickled."""
    if not text:
        return []
    try:
        return json.loads(text)
    except ValueError:
        packed = zlib.decompress(base64.b64decode(text.encode()))
        return json.loads(_OnlyText(io.BytesIO(packed)).load())


class _OnlyText(pickle.Unpickler):
    """Refuses every class, so that a file cannot make us run anything."""

    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"a pickled {module}.{name}, expected a text")


def _apps(row: Row) -> Tests:
    """Read ``input_output`` of APPS and TACO: parallel lists, with ``fn_name`` for calls."""
    published = row["input_output"]
    about = json.loads(published) if isinstance(published, str) else published
    cases = [list(pair) for pair in zip(about["inputs"], about["outputs"], strict=True)]
    if not cases:
        raise ValueError("no cases")
    if about.get("fn_name"):
        return {"kind": "calls", "function": about["fn_name"], "cases": cases} | CONTEST
    return _stdio([[_lines(given), _lines(expected)] for given, expected in cases]) | CONTEST


def _lines(text: Any) -> Any:
    """The text of an input, which TACO may write as a list of lines."""
    return "\n".join(map(str, text)) if isinstance(text, list) else text


def _code_contests(row: Row) -> Tests:
    """Read CodeContests: parallel lists of inputs and outputs, in up to three groups."""
    groups = [row.get(f"{name}_tests") or {} for name in ("public", "private", "generated")]
    cases = [
        list(pair)
        for group in groups
        for pair in zip(group.get("input", []), group.get("output", []), strict=True)
    ]
    if not cases:
        raise ValueError("no cases")
    return _stdio(cases) | CONTEST


def _stdio(cases: list[list[Any]]) -> Tests:
    if not all(isinstance(text, str) for case in cases for text in case):
        raise ValueError("input and output of a case must be texts; calls need `function`")
    return {"kind": "stdio", "cases": cases}


READERS: dict[str, Callable[[Row], Tests]] = {
    "tests": _own,
    "test": _humaneval,
    "base_input": _evalplus,
    "test_list": _mbpp,
    "public_test_cases": _livecodebench,
    "input_output": _apps,
    "public_tests": _code_contests,
}
