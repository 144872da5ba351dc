"""Read a sealed store: memory-mapped shards, rows in plan order, nothing trusted unchecked.

Opening checks every shard against its sha256, so a flipped byte or a missing shard is found before
any work; reading a row checks its crc32 again.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from leyden.errors import StoreError
from leyden.files import disk_errors, read_json
from leyden.store.schema import CHECKSUM, FORMAT_VERSION, row_checksum
from leyden.store.writer import SEALED, STORE, shard_path

Row = dict[str, Any]


@dataclass(frozen=True)
class Store:
    """A sealed store. ``store[i]`` is row i as a dict; lists are read-only NumPy arrays."""

    folder: Path
    fingerprint: str
    num_tokens: int
    shards: tuple[tuple[Path, pa.Table], ...]
    ends: tuple[int, ...]

    def __len__(self) -> int:
        return self.ends[-1]

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = bisect_right(self.ends, index)
        path, table = self.shards[shard]
        local = index - (self.ends[shard - 1] if shard else 0)
        row = {name: _value(table.column(name)[local]) for name in table.schema.names}
        if row_checksum(row, table.schema) != row[CHECKSUM]:
            raise _damaged(path, f"row {local} does not match its crc32")
        return row

    def values(self, name: str) -> list[Any]:
        """One scalar column (``split``, ``prompt_id``, ...) of every row."""
        return [value for _, table in self.shards for value in table.column(name).to_pylist()]

    @property
    def schema(self) -> pa.Schema:
        return self.shards[0][1].schema


def open_store(folder: Path) -> Store:
    """Open a sealed store and check every shard's sha256. Raises StoreError naming the file."""
    if not (folder / SEALED).exists():
        raise StoreError(f"{folder}: is not sealed", hint="run its stage again to finish it")
    about, seal = read_json(folder / STORE), read_json(folder / SEALED)
    if about.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{folder / STORE}: format version {about.get('format_version')}, expected "
            f"{FORMAT_VERSION}",
            hint="use the version of leyden that wrote it",
        )
    paths = [(shard_path(folder, unit, digest), digest) for unit, digest in seal["units"]]
    shards = tuple((path, _open_shard(path, digest)) for path, digest in paths)
    ends = tuple(accumulate(table.num_rows for _, table in shards))
    return Store(folder, seal["dataset_fingerprint"], seal["tokens"], shards, ends)


def _open_shard(path: Path, digest: str) -> pa.Table:
    if not path.exists():
        raise StoreError(f"{path}: a shard is missing", hint="restore it, or redo the stage")
    with disk_errors(path), open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise _damaged(path, f"its sha256 is {found[:12]}, recorded {digest[:12]}")
    with disk_errors(path):
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(
        f"{path}: damaged: {what}", hint="restore the file from a copy, or redo the stage"
    )


def _value(scalar: pa.Scalar) -> Any:
    if isinstance(scalar, pa.ListScalar):
        values = scalar.values
        return values.to_numpy(zero_copy_only=False)
    return scalar.as_py()
