"""Read JSON that somebody else may have made into values of a known type, or name what is wrong.

Types are checked as they are written: no number becomes a text, and no text a number. JSON that is
too deep, integers of too many digits and half characters are refused.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from leyden.errors import REDO, StoreError
from leyden.files import disk_errors, require_regular

HINT = f"restore the file from a copy, or {REDO}"


def read_lines(path: Path, kind: Any, *, growing: bool = False) -> Iterator[Any]:
    """The values of a file with one JSON value of the type ``kind`` per line.

    The last line of a ``growing`` file may be half-written, and is then left out. Raises StoreError
    with the file, the line and the field.
    """
    adapter = TypeAdapter(kind)
    require_regular(path)
    with disk_errors(path), open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not growing or line.endswith(b"\n"):
                yield _validated(adapter, line, f"{path}:{number}")


def _validated(adapter: TypeAdapter, data: bytes, where: str) -> Any:
    try:
        return adapter.validate_json(data, strict=True)
    except ValidationError as error:
        raise StoreError(f"{where}: damaged: {first_problem(error)[:200]}", hint=HINT) from error


def first_problem(error: ValidationError) -> str:
    """The first field that is not of its type, and what is wrong with it."""
    field = first_field(error)
    message = error.errors(include_url=False, include_input=False)[0]["msg"]
    return f"{field}: {message}" if field else message


def first_field(error: ValidationError) -> str:
    """The dotted name of the first field that is not of its type; empty for the whole value."""
    return ".".join(map(str, error.errors(include_url=False, include_input=False)[0]["loc"]))
