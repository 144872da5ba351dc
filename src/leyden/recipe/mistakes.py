"""Mistakes in recipes: one sentence with the key and its value, and a hint."""

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from leyden.errors import ConfigError
from leyden.recipe.training import ArmMistake

Location = Sequence[int | str]


def explain(
    error: ValidationError, top: type[BaseModel], source: str, flags: Collection[str]
) -> ConfigError:
    """The first mistake of ``error``, found in a ``top`` that was read from ``source``.

    A key that is one of ``flags`` was given on the command line, and the sentence says so.
    """
    location, first = _first(error)
    key = ".".join(map(str, location))
    source = f"--{key}" if key in flags else source
    where = source if key in flags or not key else f"{source}: {key}"
    value, kind = first.get("input"), first["type"]
    if kind == "extra_forbidden":
        hint = _unknown(location, top)
        return ConfigError(f"{source}: unknown key {key} = {value!r}", hint=hint)
    if location and location[-1] == "[key]":
        return ConfigError(
            f"{source}: {value!r} is not a name", hint="lower-case letters, digits, - and _"
        )
    if kind == "missing":
        return ConfigError(
            f"{source}: {key} is required and missing", hint=f"add {key} to the recipe"
        )
    if kind == "value_error":
        message = " ".join(str(first["ctx"]["error"]).splitlines())
        return ConfigError(f"{where}: {message}", hint="change one of the settings named")
    return ConfigError(
        f"{where} = {value!r} is not valid: {first['msg']}", hint=_meant(first, location, top)
    )


def _first(error: ValidationError) -> tuple[Location, Any]:
    """The place of the first mistake, inside an arm if it is an arm's, and pydantic's account."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if not isinstance(cause, ArmMistake):
        return first["loc"], first
    location, inner = _first(cause.error)
    return (*first["loc"], "arms", cause.arm, *location), inner


def _unknown(location: Location, top: type[BaseModel]) -> str:
    """A hint at the key that was meant, or else all keys that the section has."""
    section = list(_sections(location[:-1], top))[-1]
    known = sorted(section.model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
    return hint + ("; as a flag: --section.field VALUE" if len(location) == 1 else "")


def _meant(first: Any, location: Location, top: type[BaseModel]) -> str:
    """The choice that was meant, or else what the field is for."""
    choices = re.findall(r"'([^']*)'", first.get("ctx", {}).get("expected", ""))
    close = difflib.get_close_matches(str(first.get("input")), choices, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    described = _description(location, top)
    return f"{location[-1]} is: {described}" if described else "see `leyden config --schema`"


def _description(location: Location, top: type[BaseModel]) -> str:
    """The text about the field at ``location``, on one line; empty if it is no field."""
    *_, section = _sections(location[:-1], top)
    field = section.model_fields.get(str(location[-1]))
    return " ".join((field.description or "").split()) if field else ""


def _sections(location: Location, top: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The section ``top``, and each that a key or an index of ``location`` leads into."""
    section = top
    yield section
    for part in location:
        field = section.model_fields.get(str(part))
        for candidate in _types(field) if field else ():
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                section = candidate
                yield section


def _types(field: FieldInfo) -> list[Any]:
    return [field.annotation, *get_args(field.annotation)]
