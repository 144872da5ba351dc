"""The program under test, run in a process of its own: with tests, with calls, or as a script.

Each function returns ``(result, error)``: JSON values, or None and a sentence of what went wrong.
"""

import builtins
import sys
import threading
import traceback
import types
from typing import Any

from .values import decode, encode

PROGRAM, TESTS = "<program>", "<tests>"
Outcome = tuple[Any, str]


def run(job: dict[str, Any]) -> Outcome:
    return {"asserts": run_asserts, "calls": run_calls, "script": run_script}[job["kind"]](job)


def run_asserts(job: dict[str, Any]) -> Outcome:
    """The tests run in the program's own namespace; the first exception fails them all."""
    try:
        space = load(job["program"], "candidate")
        exec(compile(job["tests"], TESTS, "exec"), space)
    except BaseException as error:
        return None, explain(error, job)
    return True, ""


def run_calls(job: dict[str, Any]) -> Outcome:
    """``function`` (a name, or a method of ``Solution``) on each of the ``calls``' arguments.

    The result is a list with ``["value", v]`` or ``["error", sentence]`` per call.
    """
    try:
        function = find(load(job["program"], "candidate"), job["function"])
    except BaseException as error:
        return None, explain(error, job)
    return [one_call(function, call, job) for call in job["calls"]], ""


def one_call(function: Any, call: Any, job: dict[str, Any]) -> list[Any]:
    try:
        return ["value", encode(function(*decode(call)))]
    except BaseException as error:
        return ["error", explain(error, job)]


def find(space: dict[str, Any], name: str) -> Any:
    if name in space:
        return space[name]
    if "Solution" in space:
        return getattr(space["Solution"](), name)
    raise NameError(f"the program defines no {name}")


def run_script(job: dict[str, Any]) -> Outcome:
    """The whole program as ``__main__``; what it prints goes to its standard output."""
    try:
        load(job["program"], "__main__")
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
    except SystemExit as error:
        if error.code not in (None, 0):
            return None, f"exit code {error.code!r:.60}"
    except BaseException as error:
        return None, explain(error, job)
    finally:
        sys.stdout.flush()
    return True, ""


def load(program: str, name: str) -> dict[str, Any]:
    """Run the program as a module of that name and return its namespace."""
    for name_of_exit in ("exit", "quit"):  # which `site` gives to every other program
        setattr(builtins, name_of_exit, sys.exit)
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(program, PROGRAM, "exec"), module.__dict__)
    return module.__dict__


def explain(error: BaseException, job: dict[str, Any]) -> str:
    """Type and message of an exception, and the line of program or tests where it was raised."""
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SystemExit):
        said = "it exits before its tests have run"
    sources = {PROGRAM: job["program"], TESTS: job.get("tests", "")}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in sources and frame.lineno:
            lines = sources[frame.filename].splitlines()
            line = lines[frame.lineno - 1].strip() if frame.lineno <= len(lines) else ""
            return f"{said[:300]} (line {frame.lineno} of the {frame.filename[1:-1]}: {line[:160]})"
    return said[:300]
