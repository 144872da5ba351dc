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
from leyden.files import disk_errors, read_object
from leyden.lineage import require_same
from leyden.store.plan import PLAN, plan_digest, read_plan
from leyden.store.schema import CHECKSUM, FORMAT_VERSION, row_checksum
from leyden.store.writer import COMMITS, SEALED, STORE, dataset_fingerprint, shard_path

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


def open_store(folder: Path, *, expected: str | None = None) -> Store:
    """Open a sealed store and check every shard's sha256, and its fingerprint if ``expected``.

    Raises StoreError naming the file.
    """
    if not (folder / SEALED).exists():
        raise StoreError(f"{folder}: is not sealed", hint="run its stage again to finish it")
    about = read_object(folder / STORE, "format_version", "plan")
    seal = read_object(folder / SEALED, "units", "tokens")
    if about.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{folder / STORE}: format version {about.get('format_version')}, expected "
            f"{FORMAT_VERSION}",
            hint="use the version of leyden that wrote it",
        )
    paths = [(shard_path(folder, unit, digest), digest) for unit, digest in seal["units"]]
    shards = tuple((path, _open_shard(path, digest)) for path, digest in paths)
    ends = tuple(accumulate(table.num_rows for _, table in shards))
    found = dataset_fingerprint(shards[0][1].schema, seal["units"])
    require_same(folder, found, expected or found)
    return Store(folder, found, seal["tokens"], shards, ends)


def check_plan(store: Store) -> None:
    """The plan and the commit records must say what the sealed shards say."""
    folder, about = store.folder, read_object(store.folder / STORE, "plan")
    units = read_plan(folder)
    if plan_digest(units) != about["plan"]:
        raise _damaged(folder / PLAN, f"it is not the plan that {STORE} names")
    for unit, (path, table) in zip(units, store.shards, strict=True):
        commit = read_object(folder / COMMITS / f"{unit.name}.json", "sha256", "rows")
        if shard_path(folder, unit.name, commit["sha256"]) != path:
            raise _damaged(folder / COMMITS / f"{unit.name}.json", "it names another shard")
        if not commit["rows"] == table.num_rows == len(unit.rows):
            raise _damaged(path, f"it has {table.num_rows} rows, planned {len(unit.rows)}")


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
