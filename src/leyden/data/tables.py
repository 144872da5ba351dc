"""Rows of data files: JSON lines, JSON, Parquet, Arrow, CSV or plain text, perhaps compressed.

A place is a file, a glob of files, or the folder that ``datasets.Dataset.save_to_disk`` wrote.
Values that JSON lacks become what they are written as: dates as ISO 8601, decimals as text, and
bytes as their number.
"""

import csv
import datetime
import decimal
import glob
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from leyden.errors import ConfigError

Row = dict[str, Any]
KINDS = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather", ".csv", ".tsv", ".txt")
WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")


def files_of(place: str | Path) -> list[Path]:
    """The data files of a place, in the order of their names. Raises ConfigError for none."""
    path = Path(place)
    if path.is_dir():
        found = _files_in(path)
    elif path.exists() or not glob.has_magic(str(place)):
        found = [path]
    else:
        found = sorted(Path(name) for name in glob.glob(str(place), recursive=True))
        found = [name for name in found if name.is_file()]
    if not found:
        raise ConfigError(
            f"{place}: holds no data file",
            hint=f"give a file that ends in one of {', '.join(KINDS)}, a glob, or the folder of a "
            "saved data set",
        )
    return found


def _files_in(folder: Path) -> list[Path]:
    """The files of a saved data set, or all data files of a folder."""
    if (folder / "dataset_dict.json").is_file():
        splits = json.loads((folder / "dataset_dict.json").read_text()).get("splits", [])
        raise ConfigError(
            f"{folder}: is a saved data set with the splits {', '.join(splits)}",
            hint=f"give the folder of one of them, such as {folder / splits[0]}" if splits else "",
        )
    if (folder / "state.json").is_file():  # of datasets.save_to_disk
        state = json.loads((folder / "state.json").read_text())
        return [folder / part["filename"] for part in state.get("_data_files", [])]
    return sorted(p for p in folder.iterdir() if p.is_file() and kind_of(p) in KINDS)


def kind_of(path: Path) -> str:
    """The suffix that says how to read a file, without that of its compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".zst"):
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """(number from 1, row) of every row of a file that is not empty, in order.

    Raises ConfigError with the file and the line of the first that cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: is not a regular file", hint="give a file of prompts")
    kind = kind_of(path)
    if kind in WEIGHTS:
        raise ConfigError(f"{path}: holds the weights of a model", hint="give a file of prompts")
    readers: dict[str, Callable[[Path], Iterable[tuple[int, Row]]]] = {
        ".parquet": _parquet,
        ".arrow": _arrow,
        ".feather": _arrow,
        ".json": _json,
        ".csv": lambda path: _separated(path, ","),
        ".tsv": lambda path: _separated(path, "\t"),
        ".txt": _text,
    }
    try:
        yield from readers.get(kind, _json_lines)(path)
    except (OSError, EOFError, UnicodeError, zlib.error, csv.Error) as error:
        raise _unreadable(path, error) from error


def _opened(path: Path) -> io.TextIOBase:
    """The text of a file, unpacked, without the mark that Windows puts first."""
    ending = path.suffix.lower()
    if ending == ".zst":
        import pyarrow

        source = pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
        return io.TextIOWrapper(io.BufferedReader(source), encoding="utf-8-sig")
    opener = gzip.open if ending == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig")


def _json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _parse(line, f"{path}:{number}")


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


def _json(path: Path) -> Iterator[tuple[int, Row]]:
    """A list of objects, or JSON lines under this name."""
    with _opened(path) as file:
        text = file.read()
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        first = text.lstrip().split("\n", 1)[0].strip()
        if first.startswith("{") and first.endswith("}"):
            yield from _json_lines(path)
            return
        raise ConfigError(
            f"{path}: not valid JSON: {error}",
            hint="a .json file holds a list of objects; one object per line is .jsonl",
        ) from error
    if not isinstance(rows, list):
        raise ConfigError(
            f"{path}: a {type(rows).__name__}, not a list"
            + (f"; its fields are {', '.join(map(repr, rows))}" if isinstance(rows, dict) else ""),
            hint="a .json file holds a list of objects",
        )
    for number, row in enumerate(rows, start=1):
        yield number, _object(row, f"{path}: row {number}")


def _parquet(path: Path) -> Iterator[tuple[int, Row]]:
    from pyarrow import ArrowException, parquet  # a tenth of a second that few files need

    try:
        with parquet.ParquetFile(path) as file:
            yield from _rows_of(file.iter_batches())
    except ArrowException as error:
        raise _unreadable(path, error) from error


def _arrow(path: Path) -> Iterator[tuple[int, Row]]:
    """Arrow's file or stream format; ``datasets`` writes the latter."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            yield from _rows_of(_batches(source))
    except pa.ArrowException as error:
        raise _unreadable(path, error) from error


def _rows_of(batches: Iterable[Any]) -> Iterator[tuple[int, Row]]:
    rows = (plain_value(row) for batch in batches for row in batch.to_pylist())
    return enumerate(rows, start=1)


def _batches(source: Any) -> Iterator[Any]:
    import pyarrow as pa

    try:
        reader = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        yield from pa.ipc.open_stream(source)
    else:
        yield from (reader.get_batch(i) for i in range(reader.num_record_batches))


def _separated(path: Path, separator: str) -> Iterator[tuple[int, Row]]:
    with _opened(path) as lines:
        csv.field_size_limit(2**27)
        rows = csv.reader(lines, delimiter=separator, strict=True)
        header = next(rows, None)
        for row in rows:
            if not header or len(row) > len(header):
                raise ConfigError(
                    f"{path}:{rows.line_num}: {len(row)} values for {len(header or [])} columns",
                    hint="the first line names the columns; put values with commas in quotes",
                )
            if any(row):
                yield rows.line_num, dict(zip(header, row, strict=False))


def _text(path: Path) -> Iterator[tuple[int, Row]]:
    """A prompt a line."""
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, {"prompt": line.rstrip("\r\n")}


def plain_value(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, dict):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    if isinstance(value, bytes):
        return {"bytes": len(value)}
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"{path}: cannot read prompts: {getattr(error, 'strerror', None) or error}",
        hint="give UTF-8 JSON lines, or a file that ends in what it is: "
        f"{', '.join(KINDS[2:])}; paths are relative to the recipe, or in a flag to the working "
        "directory",
    )
