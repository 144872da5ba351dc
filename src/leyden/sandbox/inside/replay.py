"""Run a problem's tests without the program: its answers were found in another process.

Whatever the program returned arrives here as a plain value, so that no object of its own can say
that it equals what the tests expect. A call whose answer is not known yet is noted, and answered
with something that agrees with everything; the tests are then run again with its real answer.
"""

import ast
import builtins
import contextlib
import random
from typing import Any

from .values import Opaque, decode, encode

TESTS, PREFIX = "<tests>", "<prefix>"
PLAIN = (type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)


class Anything:
    """Agrees with everything, and is no object of the program."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def __iter__(self) -> Any:
        return iter(())

    def __hash__(self) -> int:
        return 0


def _constant(value: Any) -> Any:
    return lambda self, *others: value


for _name, _value in {
    "eq": True, "ne": True, "lt": True, "le": True, "gt": True, "ge": True, "bool": True,
    "contains": True, "len": 0, "int": 0, "index": 0, "float": 0.0, "str": "", "repr": "",
}.items():  # fmt: skip
    setattr(Anything, f"__{_name}__", _constant(_value))
for _name in (
    "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "mod", "rmod",
    "pow", "rpow", "neg", "pos", "abs", "round", "getitem", "and", "or", "rand", "ror", "xor",
):  # fmt: skip
    setattr(Anything, f"__{_name}__", lambda self, *others: self)


class Replay:
    """Answers calls from ``table``, [call, outcome] in order, and notes the calls after it."""

    def __init__(self, table: list[Any]) -> None:
        self.table, self.used = table, 0
        self.asked: list[Any] = []
        self.objects = False
        self.raised: BaseException | None = None

    def proxy(self, name: str) -> Any:
        """The function ``name`` of the program, as the tests call it."""

        def function(*args: Any, **kwargs: Any) -> Any:
            call = [name, encode(args), encode(kwargs)]
            if '["opaque"' in _text(call):  # an answer that is not known yet, or a real object
                self.objects = self.objects or not self.asked
                return Anything()
            if not self.asked and self.used < len(self.table):
                known, outcome = self.table[self.used]
                if known == call:
                    self.used += 1
                    return self._answer(outcome, args)
            self.asked.append(call)
            return Anything()

        function.__name__ = name
        return function

    def _answer(self, outcome: list[Any], args: tuple[Any, ...]) -> Any:
        kind, content, after = outcome
        if after is not None:
            for argument, changed in zip(args, decode(after), strict=True):
                _become(argument, changed)
        if kind == "value":
            return self._watched(decode(content))
        error = getattr(builtins, content.partition(":")[0].split(" ")[0], RuntimeError)
        known = isinstance(error, type) and issubclass(error, Exception)
        self.raised = (error if known else RuntimeError)(content)
        raise self.raised

    def _watched(self, value: Any) -> Any:
        return Unknown(self, value) if isinstance(value, Opaque) else value


class Unknown:
    """A value of the program that cannot leave its process. It equals nothing plain; whoever asks
    more of it needs the object itself, which is noted."""

    def __init__(self, replay: Replay, value: Opaque) -> None:
        self.__dict__.update(replay=replay, value=value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PLAIN):
            self.replay.objects = True
        return False

    def __getattr__(self, name: str) -> Any:
        self.replay.objects = True
        raise AttributeError(name)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.value)


def run_replay(job: dict[str, Any], explain: Any) -> tuple[Any, str]:
    """The result: ``passed``, ``error``, calls ``used`` of the table and ``asked`` after it, and
    ``objects`` where the tests need more than plain values."""
    replay, tests = Replay(job["table"]), ast.parse(job["tests"])
    passed, error = False, ""
    try:
        run_tests(tests, replay, job)
        passed = True
    except AssertionError as problem:
        error = explain(problem, job)
    except BaseException as problem:
        if problem is replay.raised:
            error = str(problem.args[0])  # the program's own error, told with its line
        else:  # such as a method that a plain value does not have
            error, replay.objects = explain(problem, job), True
    if replay.asked:  # once more, past what fails only because an answer is not known
        replay = Replay(job["table"])
        with contextlib.suppress(BaseException):
            run_tests(Unasserted().visit(tests), replay, job)
    return {
        "passed": passed,
        "error": error,
        "used": replay.used,
        "asked": replay.asked,
        "objects": replay.objects and not replay.asked,
    }, ""


def run_tests(tests: ast.Module, replay: Replay, job: dict[str, Any]) -> None:
    """Run the tests with proxies in place of the program, the same way every time."""
    random.seed(0)
    space: dict[str, Any] = {"__name__": "tests"}
    exec(compile(job["program"], PREFIX, "exec"), space)
    space.update({name: replay.proxy(name) for name in job["names"]})
    exec(compile(ast.fix_missing_locations(tests), TESTS, "exec"), space)


class Unasserted(ast.NodeTransformer):
    """Makes statements of asserts: their calls are made, and nothing fails."""

    def visit_Assert(self, node: ast.Assert) -> ast.Expr:
        return ast.copy_location(ast.Expr(node.test), node)


def _become(argument: Any, changed: Any) -> None:
    """Change an argument in place as the program changed it."""
    if isinstance(argument, list) and isinstance(changed, list):
        argument[:] = changed
    elif isinstance(argument, dict | set) and isinstance(changed, dict | set):
        argument.clear()
        argument.update(changed)


def _text(call: Any) -> str:
    return repr(call).replace("'", '"')
