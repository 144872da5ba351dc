"""Judge a program by tests that are code, without letting the program near them.

The program answers the tests' calls in one process; the tests run in another, with the answers as
plain values. Where tests need the program's own objects, they run in its process, which a program
could forge; such a verdict says so.
"""

import ast
import builtins
from collections.abc import Iterator
from typing import Any

from leyden.evals.verdict import RIGHT, WRONG, Verdict
from leyden.sandbox.client import Ended, Limits, Sandbox

Tests = dict[str, Any]
ROUNDS = 4  # of tests whose calls depend on earlier answers
BRANCHES = (ast.If, ast.IfExp, ast.While, ast.Try, ast.BoolOp, ast.comprehension)
MODULES = {"math", "copy", "numpy", "random", "typing"}  # whose functions keep values plain
FUNCTIONS = {
    "abs", "all", "any", "bool", "dict", "enumerate", "filter", "float", "frozenset", "int",
    "isinstance", "len", "list", "map", "max", "min", "pow", "range", "round", "set", "sorted",
    "sum", "tuple", "zip",
}  # fmt: skip
OTHERS = (  # statements and expressions in which a value's type, identity or text may count
    ast.Try, ast.With, ast.ClassDef, ast.Lambda, ast.Raise, ast.Global, ast.Nonlocal, ast.Yield,
    ast.YieldFrom, ast.Await, ast.AsyncFunctionDef, ast.JoinedStr, ast.Delete,
)  # fmt: skip


def names_of_program(tests: Tests) -> list[str]:
    """The functions of the program that the tests name: all names that nothing else defines."""
    tree = ast.parse(tests["tests"])
    own = set(_defined(_parsed(_prefix(tests)))) - {tests.get("function")}
    loaded = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    return sorted(loaded - set(_defined(tree)) - own - set(vars(builtins)))


def recorded_calls(tests: Tests, sandbox: Sandbox, limits: Limits) -> list[Any] | None:
    """The calls that the tests make first; None where they must run beside the program."""
    if _asks_for_types(tests["tests"]):
        return None
    ended = _replay(tests, [], sandbox, limits)
    seen = ended.result
    return seen["asked"] if _is_replay(ended) and seen["asked"] else None


def judge_apart(
    tests: Tests, program: str, sandbox: Sandbox, limits: Limits
) -> Verdict | Ended | None:
    """The verdict on ``program``; how it ended, where it did not answer; None where only its own
    process can tell."""
    known = tests["asked"] if "asked" in tests else recorded_calls(tests, sandbox, limits)
    calls: list[Any] = known or []
    for _ in range(ROUNDS if calls else 0):
        job = {"kind": "answers", "program": program, "calls": calls, "setup": _setup(tests)}
        ended = sandbox.run(job, limits)
        if not _is_answers(ended, calls):
            return None if ended.how != "done" and _branches(tests) else ended
        table = [list(pair) for pair in zip(calls, ended.result, strict=True)]
        played = _replay(tests, table, sandbox, limits)
        if not _is_replay(played) or played.result["objects"]:
            return None
        if not played.result["asked"]:
            return _verdict(played.result, tests)
        calls = calls[: played.result["used"]] + played.result["asked"]
    return None


def _verdict(played: dict[str, Any], tests: Tests) -> Verdict | None:
    """The verdict of tests that ran to their end; where they failed for what only the program's own
    process can show, such as its types or its output, None."""
    if played["passed"]:
        return Verdict(RIGHT, why="all its tests pass")
    return Verdict(WRONG, why=played["error"]) if only_values_count(tests) else None


def only_values_count(tests: Tests) -> bool:
    """Whether tests look at nothing but the values of results: no types, texts, identities or
    exceptions. An answer that fails such tests is wrong."""
    tree, ours = ast.parse(tests["tests"]), set(names_of_program(tests))
    called = FUNCTIONS | ours | set(_defined(tree)) | set(_defined(_parsed(_prefix(tests))))
    modules, functions = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Call):
            functions |= {id(part) for part in (node.func, *node.args)}
    return all(
        _counts_values(node, called, modules)
        and not (isinstance(node, ast.Name) and node.id in ours and id(node) not in functions)
        for node in ast.walk(tree)
    )


def _counts_values(node: ast.AST, called: set[str], modules: set[str]) -> bool:
    if isinstance(node, OTHERS):
        return False
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [getattr(node, "module", None) or alias.name for alias in node.names]
        return all(name.partition(".")[0] in MODULES for name in names)
    if isinstance(node, ast.Attribute):  # of a module; a method may be of a program's object
        return isinstance(node.value, ast.Name) and node.value.id in modules and node.attr != "seed"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in called
    if isinstance(node, ast.Compare):
        pairs = zip(node.ops, node.comparators, strict=True)
        return all(
            isinstance(right, ast.Constant)
            for op, right in pairs
            if isinstance(op, ast.Is | ast.IsNot)
        )
    return True


def _replay(tests: Tests, table: list[Any], sandbox: Sandbox, limits: Limits) -> Ended:
    job = {"kind": "replay", "tests": tests["tests"], "program": _prefix(tests), "table": table}
    apart = sandbox.sibling("tests")  # no program ever runs there, nor could it read tests here
    try:
        return apart.run(job | {"names": names_of_program(tests)}, limits)
    except RecursionError:  # an answer of many levels
        return Ended("sandbox")


def _prefix(tests: Tests) -> str:
    """The prompt's own code, whose helpers tests may use, with a body for its last function."""
    prefix = tests.get("prefix") or ""
    return next((p for p in (prefix, f"{prefix}\n    pass\n") if _parsed(p).body), "")


def _setup(tests: Tests) -> str:
    """The imports and constants of the tests, which a program may rely on."""
    return "\n".join(ast.unparse(n) for n in ast.parse(tests["tests"]).body if _is_setup(n))


def _is_setup(node: ast.stmt) -> bool:
    constant = isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    return constant or isinstance(node, ast.Import | ast.ImportFrom)


def _parsed(code: str) -> ast.Module:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return ast.Module([], [])


def _defined(tree: ast.AST) -> Iterator[str]:
    """Every name that is given a meaning anywhere in the code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name


def _asks_for_types(code: str) -> bool:
    """Whether tests ask for a type that plain values do not keep, as of ``Counter``."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            asked = {n.id for part in node.args[1:] for n in ast.walk(part) if hasattr(n, "id")}
            if asked - set(vars(builtins)):
                return True
    return False


def _branches(tests: Tests) -> bool:
    nodes = ast.walk(ast.parse(tests["tests"]))
    return any(isinstance(node, BRANCHES) and getattr(node, "ifs", True) for node in nodes)


def _is_replay(ended: Ended) -> bool:
    return ended.how == "done" and isinstance(ended.result, dict)


def _is_answers(ended: Ended, calls: list[Any]) -> bool:
    """Whether this is an outcome per call. It comes from the program's process and is not
    trusted."""
    outcomes = ended.result
    whole = ended.how == "done" and isinstance(outcomes, list) and len(outcomes) == len(calls)
    return whole and all(map(_is_answer, outcomes))


def _is_answer(outcome: Any) -> bool:
    if not isinstance(outcome, list) or len(outcome) != 4:
        return False
    kind, content, after, _ = outcome
    whole = after is None or (isinstance(after, list) and len(after) == 2)
    told = isinstance(content, list) and len(content) == 3
    return whole and (kind == "value" or (kind == "error" and told))
