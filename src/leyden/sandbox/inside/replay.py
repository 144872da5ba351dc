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
        self.partial: dict[int, Any] = {}  # results that were more than their plain values
        self.raised: BaseException | None = None
        self.sentence = ""

    def proxy(self, name: str) -> Any:
        """The function ``name`` of the program, as the tests call it."""

        def function(*args: Any, **kwargs: Any) -> Any:
            # Something else is an answer that is not known yet, or needs the program's process.
            if not is_plain([args, kwargs], self.partial):
                self.objects = self.objects or not self.asked
                return Anything()
            call = [name, encode(args), encode(kwargs)]
            if not self.asked and self.used < len(self.table):
                known, outcome = self.table[self.used]
                if known == call:
                    self.used += 1
                    return self._answer(outcome, args, kwargs)
            self.asked.append(call)
            return Anything()

        function.__name__ = name
        return function

    def _answer(self, outcome: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kind, content, after, whole = outcome
        if after is not None:
            become(args, decode(after[0]))
            become(kwargs, decode(after[1]))
        if kind == "value":
            value = self._watched(decode(content))
            if whole is not True and not isinstance(value, (int, float, str, type(None))):
                self.partial[id(value)] = value
            return value
        self.sentence, name, message = map(str, content)
        error = getattr(builtins, name, RuntimeError)
        known = isinstance(error, type) and issubclass(error, Exception)
        if not known or issubclass(error, StopIteration | StopAsyncIteration):
            error = RuntimeError  # the others would end a loop of the tests, and with it the tests
        self.raised = error(message)
        raise self.raised

    def _watched(self, value: Any) -> Any:
        """The value with an ``Unknown`` for each object in it."""
        if isinstance(value, Opaque):
            return Unknown(self, value)
        if isinstance(value, list | tuple):
            return type(value)(map(self._watched, value))
        if isinstance(value, dict):
            return {key: self._watched(one) for key, one in value.items()}
        return value


def is_built_in(value: Any) -> bool:
    """Whether a value is of built-in types alone, at any depth."""
    if type(value) not in PLAIN:
        return False
    if isinstance(value, dict):
        return all(map(is_built_in, [*value, *value.values()]))
    return not isinstance(value, (list, tuple, set, frozenset)) or all(map(is_built_in, value))


def is_plain(value: Any, partial: dict[int, Any]) -> bool:
    """Whether arguments are of built-in types alone, hold no list, dictionary or set twice, and
    nothing of ``partial``."""
    if not is_built_in(value):
        return False
    seen: set[int] = set()
    rest = [value]
    while rest:
        part = rest.pop()
        if id(part) in partial:
            return False
        if isinstance(part, (list, dict, set)):
            if id(part) in seen:
                return False
            seen.add(id(part))
        if isinstance(part, dict):
            rest += [*part, *part.values()]
        elif isinstance(part, (list, tuple, set, frozenset)):
            rest += part
    return True


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

    def __bool__(self) -> bool:
        self.replay.objects = True
        return True

    def __repr__(self) -> str:
        self.replay.objects = True
        return repr(self.value)

    __hash__ = None  # type: ignore[assignment]


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
            error = replay.sentence  # the program's own error, told with its line
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


def become(argument: Any, changed: Any) -> None:
    """Change an argument in place as the program changed it, at any depth."""
    if isinstance(argument, list | tuple) and isinstance(changed, list | tuple):
        for one, other in zip(argument, changed):  # noqa: B905  # Python 3.9 has no strict
            become(one, other)
        if isinstance(argument, list):
            kept = [a if a == c else c for a, c in zip(argument, changed)]  # noqa: B905
            argument[:] = kept + list(changed[len(argument) :])
    elif isinstance(argument, dict) and isinstance(changed, dict):
        for key in argument.keys() & changed.keys():
            become(argument[key], changed[key])
        new = {key: argument.get(key, one) for key, one in changed.items()}
        new = {key: one if one == changed[key] else changed[key] for key, one in new.items()}
        argument.clear()
        argument.update(new)
    elif isinstance(argument, set) and isinstance(changed, set):
        argument.clear()
        argument.update(changed)
