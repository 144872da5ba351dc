"""Recipe files: from TOML and flags to a validated ``Recipe``, and back to TOML."""

import difflib
import json
import os
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, ValidationError

from leyden.errors import ConfigError
from leyden.files import write_atomic
from leyden.recipe.mistakes import explain
from leyden.recipe.schema import Evaluation, Recipe


def load_recipe(path: Path, overrides: Iterable[tuple[str, str]] = ()) -> Recipe:
    """Read ``path``, apply ``("distill.learning-rate", "2e-6")`` pairs, validate.

    Paths in the file are relative to it, paths in the pairs to the working directory.
    """
    values = read_toml(path)
    _without_null(values, str(path))
    _resolve_paths(values, path.parent.resolve())
    flags = [_override(values, key, text) for key, text in overrides]
    _resolve_paths(values, Path.cwd())
    return validate(Recipe, values, source=str(path), flags=flags)


def load_evaluation(values: dict[str, Any], overrides: Iterable[tuple[str, str]]) -> Evaluation:
    """Apply (key, text) pairs to ``values`` and validate. Paths are relative to the working
    directory."""
    flags = [_override(values, key, text) for key, text in overrides]
    _resolve_paths(values, Path.cwd())
    return validate(Evaluation, values, source="leyden evaluate", flags=flags)


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file. Raises ConfigError."""
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: is not a regular file", hint="give the path of a TOML recipe")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(
                f"{path}: has {path.stat().st_size:,} bytes, over {MOST_BYTES:,}",
                hint="give the path of a TOML recipe",
            )
        text = path.read_text(encoding="utf-8")
        if deep := next((i for i, line in enumerate(text.split("\n"), 1) if _is_deep(line)), 0):
            raise ConfigError(f"{path}:{deep}: its key is too deep", hint="correct that line")
        return tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot read the recipe: {getattr(error, 'strerror', None) or error}",
            hint="give the path of a TOML recipe, such as recipes/tiny.toml",
        ) from error
    except (ValueError, RecursionError) as error:  # no TOML, or too deep, or too many digits
        raise ConfigError(f"{path}: not valid TOML: {error}", hint="correct that line") from error


def _is_deep(line: str) -> bool:
    """Whether a line has a key of so many parts that reading it would take gigabytes."""
    return line.partition("=")[0].count(".") > MOST_PARTS


def _without_null(value: Any, where: str) -> None:
    """Raise ConfigError for a text that no path can be."""
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{where}: a text holds a null character", hint="correct that line")
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inside:
        _without_null(one, where)


def validate_recipe(values: Mapping[str, Any], *, source: str) -> Recipe:
    """Validate a recipe. Raises ConfigError with the first mistake as a sentence."""
    return validate(Recipe, values, source=source)


S = TypeVar("S", bound=BaseModel)
OPTIONS = (  # of commands that also take fields of a recipe
    "dry-run", "until", "redo", "out", "benchmarks", "samples", "limit", "max-new-tokens",
    "temperature",
)  # fmt: skip
MOST_BYTES, MOST_PARTS = 2**20, 1000  # of a recipe; of one of its keys


def validate(
    section: type[S], values: Mapping[str, Any], *, source: str, flags: Collection[str] = ()
) -> S:
    """Validate any section in JSON mode, in which TOML's arrays pass as tuples.

    Raises ConfigError with the first mistake, which it places in a flag if its key is one of
    ``flags``, and else in ``source``.
    """
    try:
        return section.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise explain(error, section, source, flags) from error


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as TOML (absent optional values are left out)."""
    text = tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))
    data = text.encode()
    if not path.exists() or path.read_bytes() != data:
        write_atomic(path, data)


def parse_overrides(arguments: list[str]) -> list[tuple[str, str]]:
    """Turn ``["--distill.learning-rate", "2e-6", "--seed=3"]`` into (key, text) pairs."""
    pairs, rest = [], list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or len(flag) < 3:
            raise ConfigError(
                f"unexpected argument {flag!r}",
                hint="recipe fields are set as --section.field VALUE",
            )
        key, equals, value = flag[2:].partition("=")
        if "." not in key and (close := difflib.get_close_matches(key, OPTIONS, n=1, cutoff=0.75)):
            raise ConfigError(f"{flag}: no such option", hint=f"did you mean --{close[0]}?")
        if not equals:
            if not rest:
                raise ConfigError(f"{flag}: no value given", hint=f"write {flag} VALUE")
            value = rest.pop(0)
        pairs.append((key, value))
    return pairs


def _override(values: dict[str, Any], key: str, text: str) -> str:
    """Set a dotted key, and return it as the recipe spells it.

    The text is read as a TOML value, or else taken as a string.
    """
    *sections, field = key.split(".")
    inside, spelled = "", []
    for name in sections:
        section = _spelled(name, values, inside)
        values, inside = values.setdefault(section, {}), section
        spelled.append(section)
        if not isinstance(values, dict):
            raise ConfigError(
                f"--{key}: {section} is not a section of the recipe",
                hint="tables in arrays, such as benchmarks, are edited in the file",
            )
    field = _spelled(field, values, inside)
    try:
        values[field] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        values[field] = text
    return ".".join([*spelled, field])


def _spelled(name: str, values: dict[str, Any], inside: str) -> str:
    """The field that a flag means: its dashes are underscores, except in names of arms."""
    return name if name in values or inside == "arms" else name.replace("-", "_")


def _choices(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The engines that a recipe or an evaluation chooses."""
    engines = values.get("engines")
    named = list(engines.values()) if isinstance(engines, dict) else []
    yield from (c for c in [*named, values.get("engine")] if isinstance(c, dict))


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    """Make paths absolute that are relative to ``folder``. A Hub id stays."""
    models = values.get("models")
    if isinstance(models, dict):
        for role, place in models.items():
            if isinstance(place, str) and (folder / place).is_dir():
                models[role] = str((folder / place).resolve())
            elif isinstance(place, str) and place.startswith((".", "/", "~")):
                models[role] = str((folder / Path(place).expanduser()).resolve())
    evaluate = values.get("evaluate")
    benchmarks = evaluate.get("benchmarks", []) if isinstance(evaluate, dict) else []
    prompts = values.get("prompts")
    files = list(prompts.values()) if isinstance(prompts, dict) else []
    for benchmark in benchmarks if isinstance(benchmarks, list) else []:
        if isinstance(benchmark, dict):
            files.append(benchmark.get("problems"))
            for name in ("grader", "checker"):
                function = benchmark.get(name)
                if isinstance(function, str) and ":" in function:
                    benchmark[name] = str((folder / Path(function).expanduser()).resolve())
    if isinstance(evaluate, dict) and isinstance(evaluate.get("keep"), str):
        evaluate["keep"] = _absolute(folder, evaluate["keep"])
    for choice in _choices(values):
        python = choice.get("python")
        if isinstance(python, str) and "/" in python:  # else it is looked for on the PATH
            choice["python"] = os.path.abspath(folder / Path(python).expanduser())
    for entry in files:
        if isinstance(entry, dict) and isinstance(entry.get("file"), str):
            entry["file"] = _absolute(folder, entry["file"])
        elif isinstance(entry, dict) and isinstance(entry.get("file"), list):
            entry["file"] = [
                _absolute(folder, place) if isinstance(place, str) else place
                for place in entry["file"]
            ]


def _absolute(folder: Path, place: str) -> str:
    return str((folder / Path(place).expanduser()).resolve())
