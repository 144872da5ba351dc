"""Files of prompts: rows of JSON lines, JSON or Parquet, each with a prompt and an id."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from leyden.errors import ConfigError
from leyden.provenance.identity import fingerprint
from leyden.recipe.sampling import PromptFile

Row = dict[str, Any]
MOST_CHARACTERS = 2**20  # of a prompt; tokenizing ten times as many takes gigabytes


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """(number from 1, row) of every row that is not empty, in order.

    Raises ConfigError with the file and the line of the first that cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: is not a regular file", hint="give a file of prompts")
    if path.suffix == ".parquet":
        return enumerate(_parquet(path), start=1)
    if path.suffix == ".json":
        return enumerate(_json_list(path), start=1)
    return _json_lines(path)


def _json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _parse(line, f"{path}:{number}")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise _unreadable(path, error) from error


def _parse(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # half a character cannot be hashed
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{where}: not valid JSON: {_reason(error)}",
            hint="such a file holds one JSON object per line",
        ) from error
    return _object(row, where)


def _reason(error: Exception) -> str:
    """The mistake and its place in the line. The JSON reader would call every line line 1."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, at character {error.colno}"
    return str(error)


def _object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise ConfigError(
            f"{where}: a {type(row).__name__}, not an object", hint="correct that line"
        )
    return row


def _json_list(path: Path) -> list[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(rows, list):
        raise ConfigError(f"{path}: a {type(rows).__name__}, not a list", hint="a list of objects")
    return [_object(row, f"{path}: row {i}") for i, row in enumerate(rows, start=1)]


def _parquet(path: Path) -> list[Row]:
    from pyarrow import ArrowInvalid, parquet  # a tenth of a second that few files need

    try:
        return parquet.read_table(path).to_pylist()
    except (OSError, ArrowInvalid) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"{path}: cannot read prompts: {getattr(error, 'strerror', None) or error}",
        hint="give UTF-8 JSON lines; paths are relative to the recipe, or in a flag to the working "
        "directory",
    )


@dataclass(frozen=True)
class Prompt:
    """One row of a prompt file. ``row`` keeps every field, for graders."""

    id: str
    text: str
    answer: str | None
    row: dict[str, Any]


P = TypeVar("P", bound=Prompt)


class Window(Protocol):
    """The part of a file's rows that is used."""

    @property
    def skip(self) -> int: ...

    @property
    def limit(self) -> int | None: ...


def read_prompts(source: PromptFile, *, unique: bool = True) -> list[Prompt]:
    """All prompts of a file, in order.

    Raises ConfigError with the line of the first bad row, or of the second row with one id, unless
    ids need not be ``unique``.
    """
    path = Path(source.file)
    rows = ((f"{path}:{number}", row) for number, row in read_rows(path))
    prompts = take(rows, lambda row, where: _prompt(row, source, where), source, unique=unique)
    if not prompts:
        raise ConfigError(
            f"{path}: no prompts are left after skip = {source.skip}",
            hint="add rows, or lower skip",
        )
    return prompts


def take(
    rows: Iterable[tuple[str, Row]],
    read: Callable[[Row, str], P],
    source: Window,
    *,
    unique: bool = True,
) -> list[P]:
    """Apply ``read`` to each (where, row) that skip and limit leave. Ids must all differ."""
    seen: dict[str, tuple[str, P]] = {}
    prompts: list[P] = []
    for where, row in islice(rows, source.skip, None):
        if len(prompts) == source.limit:
            break
        prompt = read(row, where)
        if unique and prompt.id in seen:
            place, first = seen[prompt.id]
            file, _, line = place.rpartition(":")
            other = "" if where.startswith(f"{file}:") else f" of {file}"
            what = "the same prompt" if prompt.text == first.text else "another prompt"
            raise ConfigError(
                f"{where}: prompt id {prompt.id!r} was used in line {line}{other} for {what}",
                hint="remove one of the two, or set an id_field that tells them apart; without it "
                "the id is a hash of the text",
            )
        seen[prompt.id] = (where, prompt)
        prompts.append(prompt)
    return prompts


def text_id(text: str) -> str:
    """The id of a prompt whose file gives none: a hash of its text."""
    return fingerprint(text)[:16]


def _prompt(row: dict[str, Any], source: PromptFile, where: str) -> Prompt:
    text = written(row, source.prompt_field, where)
    answer = scalar(row, source.answer_field, where) if source.answer_field else None
    name = scalar(row, source.id_field, where) if source.id_field else text_id(text)
    return Prompt(name, text, answer, row)


def written(row: Row, name: str, where: str) -> str:
    """Read a prompt: text that is not empty."""
    text = _field(row, name, where)
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{where}: {name} is {text!r}, expected text", hint="correct that line")
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(
            f"{where}: {name} has {len(text):,} characters, over {MOST_CHARACTERS:,}",
            hint="shorten or remove it; no model reads a prompt of that length",
        )
    return text


def scalar(row: dict[str, Any], name: str, where: str) -> str:
    """Read an id or an answer: text or a number."""
    value = _field(row, name, where)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(
            f"{where}: {name} is {value!r}, expected text or a number", hint="correct that line"
        )
    return str(value)


def _field(row: dict[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise ConfigError(
            f"{where}: has no field {name!r}; it has {', '.join(map(repr, sorted(row)))}",
            hint="name the right field in the recipe (prompt_field, answer_field, id_field)",
        )
    return row[name]
