"""Run the program under test in a process of its own: with tests, with calls, or as a script.

Each function returns ``(result, error)``: a JSON value and "", or None and a sentence.
"""

import atexit
import builtins
import contextlib
import gc
import json
import linecache
import sys
import threading
import traceback
import types
from typing import Any

from .replay import is_built_in, run_replay
from .values import decode, encode

MOST_SAID = 2000  # characters of an exception's message
PROGRAM, TESTS, PRELUDE, GIVEN = "<program>", "<tests>", "<prelude>", "<given>"
compile_, execute, dumps = compile, exec, json.dumps  # ours, should a program replace them
Outcome = tuple[Any, str]


def run(job: dict[str, Any], token: str) -> bytes:
    """Run a job and write its report, which the nursery believes because of ``token``."""
    sys.set_int_max_str_digits(0)  # CPU time is limited, and contests print such numbers
    kinds = {
        "asserts": run_asserts,
        "answers": run_answers,
        "replay": lambda job: run_replay(job, explain),
        "calls": run_calls,
        "script": run_script,
    }
    result, error = kinds[job["kind"]](job)
    return (token + dumps([result, error])).encode()


def run_asserts(job: dict[str, Any]) -> Outcome:
    """Run the tests in the program's own namespace. The first exception fails them all."""
    try:
        tests = compile_(job["tests"], TESTS, "exec")
        space = load(job["program"], "candidate")
        execute(tests, space)
    except BaseException as error:
        return None, explain(error, job)
    return True, ""


def run_calls(job: dict[str, Any]) -> Outcome:
    """Call ``function``, or the method of ``Solution``, with each arguments of ``calls``.

    The result is a list with ``["value", v]`` or ``["error", sentence]`` per call.
    """
    try:
        space = load(job["program"], "candidate", job.get("prelude", ""))
        function = find(space, job["function"])
    except BaseException as error:
        return None, explain(error, job)
    return [one_call(function, call, job) for call in job["calls"]], ""


def run_answers(job: dict[str, Any]) -> Outcome:
    """Answer ``calls``, [function, arguments, keywords] each, one after the other.

    The result is a list of ["value", v, after, whole] or ["error", told, after, whole]. ``told`` is
    a sentence, the exception's type and its message; see ``one_answer`` for the others.
    """
    try:
        space = load(job["program"], "candidate")
        exec(compile_(job.get("setup", ""), TESTS, "exec"), space)
    except BaseException as error:
        return None, explain(error, job)
    return [one_answer(space, call, job) for call in job["calls"]], ""


def one_answer(space: dict[str, Any], call: Any, job: dict[str, Any]) -> list[Any]:
    """The outcome of a call; its arguments afterwards, or None where they did not change; and
    whether the result is of built-in types alone, so that all of it is in the outcome."""
    name, before, keywords = call
    arguments, named, whole = decode(before), decode(keywords), True
    try:
        if name not in space:
            raise NameError(f"name {name!r} is not defined")
        value = space[name](*arguments, **named)
        whole = is_built_in(value)
        array = type(value).__module__ == "numpy" and getattr(value, "ndim", 0)
        outcome = ["value", ["opaque", "ndarray", ""] if array else encode(value)]
    except BaseException as error:
        told = [explain(error, job), type(error).__name__, str(error)[:MOST_SAID]]
        outcome = ["error", told]
    with contextlib.suppress(BaseException):
        after = [encode(arguments), encode(named)]
        return [*outcome, after if after != [before, keywords] else None, whole]
    return [*outcome, None, whole]


def one_call(function: Any, call: Any, job: dict[str, Any]) -> list[Any]:
    """["value", encoded result] of a call, or ["error", sentence]."""
    try:
        return ["value", encode(function(*decode(call)))]
    except BaseException as error:
        return ["error", explain(error, job)]


def find(space: dict[str, Any], name: str) -> Any:
    """Find the program's function of that name, not the prelude's."""
    if name in space and space[name] is not space[GIVEN].get(name):
        return space[name]
    if "Solution" in space:
        return getattr(space["Solution"](), name)
    raise NameError(f"the program defines no {name}")


def run_script(job: dict[str, Any]) -> Outcome:
    """Run the whole program as ``__main__``, printing to its standard output."""
    stdout, error = sys.stdout, ""
    try:
        load(job["program"], "__main__", job.get("prelude", ""))
    except SystemExit as ending:
        if ending.code not in (None, 0):
            error = f"exit code {ending.code!r:.60}"
    except BaseException as problem:
        error = explain(problem, job)
    finish(stdout)
    return (None, error) if error else (True, "")


def finish(stdout: Any) -> None:
    """Do what the interpreter does at its end: threads, exit functions, open files, streams."""
    for module, step in ((threading, "_shutdown"), (atexit, "_run_exitfuncs")):
        with contextlib.suppress(BaseException):
            getattr(module, step)()
    sys.modules.pop("__main__", None)
    gc.collect()
    for stream in (stdout, sys.stdout):
        with contextlib.suppress(BaseException):
            stream.flush()


def load(program: str, name: str, prelude: str = "") -> dict[str, Any]:
    """Run the program as a module of that name, after ``prelude``, and return its namespace."""
    for name_of_exit in ("exit", "quit"):  # `site`, which we do not load, defines these
        setattr(builtins, name_of_exit, sys.exit)
    module = types.ModuleType(name)
    module.__file__ = PROGRAM
    sys.modules[name] = module
    execute(compile_(prelude, PRELUDE, "exec"), module.__dict__)
    module.__dict__[GIVEN] = dict(module.__dict__)
    linecache.cache[PROGRAM] = (len(program), None, program.splitlines(True), PROGRAM)
    execute(compile_(program, PROGRAM, "exec"), module.__dict__)
    return module.__dict__


def explain(error: BaseException, job: dict[str, Any]) -> str:
    """Type and message of an exception, and the line of program or tests where it was raised."""
    sentence = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SystemExit):
        sentence = "it exits before its tests have run"
    sources = {PROGRAM: job["program"], TESTS: job.get("tests", "")}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in sources and frame.lineno:
            lines = sources[frame.filename].splitlines()
            line = lines[frame.lineno - 1].strip() if frame.lineno <= len(lines) else ""
            where = f"line {frame.lineno} of the {frame.filename[1:-1]}"
            return f"{sentence[:300]} ({where}: {line[:160]})"
    return sentence[:300]
