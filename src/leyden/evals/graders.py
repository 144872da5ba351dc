"""Graders that are plain functions: the user's own, and equality of texts."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leyden.errors import ConfigError
from leyden.recipe.benchmarks import BUILT_IN_GRADERS

Grader = Callable[[dict[str, Any], str], bool]


def load_grader(name: str) -> Grader:
    """Load the grader ``exact`` or ``path/to/file.py:function``.

    A grader takes the problem (the prompt file's row with ``prompt`` and ``answer``) and the
    completion without its stop token, and returns whether it is right.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    path, _, function = name.rpartition(":")
    if not path:
        raise ConfigError(
            f"evaluate.benchmarks.grader = {name!r} is not known",
            hint=f"use one of {', '.join(BUILT_IN_GRADERS)}, or path/to/file.py:function",
        )
    return _load_function(Path(path), function)


def _load_function(path: Path, function: str) -> Grader:
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


def apply_grader(grader: Grader, problem: dict[str, Any], completion: str, *, where: str) -> bool:
    """Call a user's grader. Whatever it raises becomes a ConfigError that names ``where``."""
    try:
        return bool(grader(problem, completion))
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{where}: the grader raised {type(error).__name__}: {error}",
            hint="a grader must give a verdict on any text; fix it and run again",
        ) from error


def grade_exact(problem: dict[str, Any], completion: str) -> bool:
    """Whether the completion is the answer, up to surrounding space."""
    return completion.strip() == str(problem["answer"]).strip()


BUILT_IN: dict[str, Grader] = {"exact": grade_exact}
