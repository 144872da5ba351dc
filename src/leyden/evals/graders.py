"""Graders that are plain functions: the user's own, equality of texts, and of Python values."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leyden.errors import ConfigError, LeydenError
from leyden.evals.boxes import boxes_joined_by_or, last_boxed
from leyden.evals.judge import Checker, is_right
from leyden.evals.literals import said_values, same_literal
from leyden.evals.verdict import final_part
from leyden.recipe.benchmarks import BUILT_IN_GRADERS

SHOWN = 100  # characters of an answer
Grader = Callable[[dict[str, Any], str], Any]
"""(problem, completion) -> right or not, or (right or not, the reason)."""


def load_grader(name: str) -> Grader:
    """Load the grader ``exact`` or ``path/to/file.py:function``.

    A grader takes the problem (the prompt file's row with ``prompt`` and ``answer``) and the
    completion without its stop token, and returns whether it is right, perhaps with a reason.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if ":" not in name:
        raise ConfigError(
            f"evaluate.benchmarks.grader = {name!r} is not known",
            hint=f"use one of {', '.join(BUILT_IN_GRADERS)}, or path/to/file.py:function",
        )
    return load_function(name)


def load_checker(name: str) -> Checker:
    """Load a checker ``path/to/file.py:function`` of a benchmark. Whatever it raises becomes a
    ConfigError."""
    check = load_function(name)

    def checked(given: Any, output: Any, expected: Any) -> Any:
        try:
            return check(given, output, expected)
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"{name}: the checker raised {type(error).__name__}: {error}",
                hint="a checker must judge any output; fix it (in a begun evaluation, with --redo)",
            ) from error

    return checked


def load_function(name: str) -> Callable[..., Any]:
    """Load the function of ``path/to/file.py:function``. Raises ConfigError."""
    place, _, function = name.rpartition(":")
    if not place:
        raise ConfigError(
            f"{name}: names a file and no function", hint="write path/to/file.py:function"
        )
    path = Path(place)
    spec = importlib.util.spec_from_file_location(f"leyden_grader_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(
            f"{path}: no such grader file",
            hint="paths are relative to the recipe, or in a flag to the working directory",
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file raises
        raise ConfigError(
            f"{path}: cannot be imported: {type(error).__name__}: {error}", hint="fix the grader"
        ) from error
    grader = vars(module).get(function)
    if not callable(grader):
        raise ConfigError(
            f"{path}: has no function {function!r}", hint="name a function of the file"
        )
    return grader


def apply_grader(
    grader: Grader, problem: dict[str, Any], completion: str, *, where: str
) -> tuple[bool, str]:
    """Call a user's grader: its verdict, and its reason or "". Whatever it raises becomes a
    ConfigError that names ``where``."""
    try:
        said = grader(problem, completion)
        reason = str(said[1]) if isinstance(said, tuple) and len(said) > 1 else ""
        return is_right(said), reason
    except LeydenError:  # such as of a program that the machine could not run
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{where}: the grader raised {type(error).__name__}: {error}",
            hint="a grader must judge any text; fix it (in a begun evaluation, with --redo)",
        ) from error


def grade_exact(problem: dict[str, Any], completion: str) -> tuple[bool, str]:
    """Whether the completion, or the content of its last box, is the answer, up to space around
    it."""
    answer, text = str(problem["answer"]).strip(), final_part(completion).strip()
    boxed = (last_boxed(text) or "").strip()
    if boxes_joined_by_or(text):
        return False, f"{boxed[:SHOWN]!r} is one of several answers"
    if answer and answer in (completion.strip(), text, boxed):
        return True, "letter for letter"
    return False, f"{(boxed or text)[-SHOWN:]!r} is not {answer[:SHOWN]!r}"


def grade_literal(problem: dict[str, Any], completion: str) -> tuple[bool, str]:
    """Whether the completion's last Python value is the answer's. A tuple is never a list."""
    answer, found = str(problem["answer"]), said_values(final_part(completion))
    if not found:
        return False, "no Python value was found"
    if any(same_literal(value, answer) for value in found):
        return True, f"{found[-1][:SHOWN]} is {answer[:SHOWN]}"
    return False, f"{found[-1][:SHOWN]} is not {answer[:SHOWN]}"


BUILT_IN: dict[str, Grader] = {"exact": grade_exact, "literal": grade_literal}
