"""Rows of a data file, one dict each: JSON lines (perhaps gzipped), a JSON list, or Parquet."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
from pyarrow import ArrowInvalid

from leyden.errors import ConfigError

Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """(number from 1, row) of every row that is not empty, in order.

    Raises ConfigError with the file and the line of the first that cannot be read.
    """
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
        json.dumps(row, ensure_ascii=False).encode()  # refuses lone surrogates
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{where}: not valid JSON: {error}", hint="a prompt file holds one JSON object per line"
        ) from error
    return _object(row, where)


def _object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: a {type(row).__name__}, not an object", hint="mend that line")
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
    try:
        return parquet.read_table(path).to_pylist()
    except (OSError, ArrowInvalid) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"{path}: cannot read prompts: {getattr(error, 'strerror', None) or error}",
        hint="UTF-8 JSON lines; a path is relative to the recipe, in a flag to where you are",
    )
