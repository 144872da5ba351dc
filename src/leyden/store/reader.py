"""Read a sealed store: memory-mapped shards, rows in plan order, nothing trusted unchecked.

Opening checks every shard against its sha256, so a flipped byte or a missing shard is found before
any work. Rows are slices of columns that were checked as a whole, and a file that changes while
it is read is found soon after.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from leyden.errors import REDO, StoreError
from leyden.files import read_object, refuse_links
from leyden.provenance.identity import fingerprint
from leyden.provenance.records import require_same
from leyden.store.plan import is_unit_name, read_plan
from leyden.store.shard import Lists, Shard
from leyden.store.unit import (
    COMMITS,
    commit_path,
    damaged,
    open_committed,
    open_shard,
    read_commit,
    shard_path,
)
from leyden.store.writer import SEALED, STORE, described, read_header, sealed_content

Row = dict[str, Any]


@dataclass(frozen=True)
class Store:
    """A sealed store. ``store[i]`` is row i as a dict; lists are read-only NumPy arrays."""

    folder: Path
    fingerprint: str
    num_tokens: int
    shards: tuple[Shard, ...]
    ends: tuple[int, ...]

    def __len__(self) -> int:
        return self.ends[-1]

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self.ends, index)
        shard, local = self.shards[number], index - (self.ends[number - 1] if number else 0)
        shard.check_unchanged()
        return {name: column[local] for name, column in shard.columns.items()}

    def shard_of(self, index: int) -> int:
        """The number of the shard that holds a row."""
        return bisect_right(self.ends, index)

    def rows_of(self, shard: int) -> tuple[int, int]:
        """The first row of a shard, and the first after it."""
        return (self.ends[shard - 1] if shard else 0), self.ends[shard]

    def values(self, name: str) -> list[Any]:
        """One scalar column (``split``, ``prompt_id``, ...) of every row."""
        return self.column(name).to_pylist()

    def column(self, name: str) -> pa.Array:
        """The same as one Arrow array."""
        chunks = [chunk for shard in self.shards for chunk in shard.table.column(name).chunks]
        return pa.concat_arrays(chunks)

    def lists(self, name: str) -> Iterator[np.ndarray]:
        """All entries of the list column ``name``, a shard at a time."""
        for shard in self.shards:
            column = shard.columns[name]
            assert isinstance(column, Lists), f"{name} holds one value per row"
            yield column.entries

    def lengths(self, name: str) -> list[int]:
        """The number of entries in the list column ``name``, row by row."""
        columns = (shard.table.column(name) for shard in self.shards)
        chunks = [chunk for column in columns for chunk in column.chunks]
        return [n for chunk in chunks for n in chunk.value_lengths().to_pylist()]

    @property
    def schema(self) -> pa.Schema:
        return self.shards[0].table.schema


def is_sealed(folder: Path) -> bool:
    """Whether a store was completed in ``folder``."""
    return (folder / SEALED).exists()


def open_store(folder: Path, *, expected: str | None = None, origin: str | None = None) -> Store:
    """Open a sealed store and check every shard's sha256, and its fingerprint if ``expected``.

    ``origin`` is the digest of the intent it must have been made from. Raises StoreError naming the
    file.
    """
    if not is_sealed(folder):
        raise StoreError(
            f"{folder}: is not sealed",
            hint="run its stage again to finish it; if it was finished, restore SEALED.json, or "
            + REDO,
        )
    refuse_links(folder / SEALED, folder / STORE, folder / COMMITS)
    about = read_header(folder)
    seal = read_object(folder / SEALED, "units", "dataset_fingerprint", "rows", "tokens")
    units = _sealed_units(folder, seal["units"])
    _check_seal(folder, about, seal, units)
    shards = tuple(Shard.open(folder, unit, digest) for unit, digest in units)
    schema = shards[0].table.schema
    if seal != sealed_content(schema, [(s.unit, s.digest, s.table) for s in shards]):
        raise damaged(folder / SEALED, "it does not describe its shards")
    content = seal["dataset_fingerprint"]
    require_same(folder, content, expected or content)
    if origin is not None and about["origin"] != origin:
        raise damaged(folder / STORE, "it was made from something else than its record says")
    ends = tuple(accumulate(shard.table.num_rows for shard in shards))
    return Store(folder, content, seal["tokens"], shards, ends)


def _check_seal(
    folder: Path, about: dict[str, Any], seal: dict[str, Any], units: list[tuple[str, str]]
) -> None:
    """Raise StoreError that names the seal or the header where these two do not fit together.

    Otherwise a damaged seal would blame the shards.
    """
    content = {"schema": about["schema"], "shards": [list(pair) for pair in units]}
    if fingerprint(content) == seal["dataset_fingerprint"]:
        return
    if _header_differs(folder, about, units):
        raise damaged(folder / STORE, "it names other columns than the shards hold")
    raise damaged(folder / SEALED, "it does not describe its shards")


def _header_differs(folder: Path, about: dict[str, Any], units: list[tuple[str, str]]) -> bool:
    """Whether the commits bear the seal out, and their shards have other columns than the header
    says."""
    try:
        for unit, digest in units:
            if read_commit(commit_path(folder, unit))["sha256"] != digest:
                return False
        unit, digest = units[0]
        schema = open_shard(shard_path(folder, unit, digest), digest).schema
    except StoreError:
        return False
    return about["schema"] != described(schema)


def _sealed_units(folder: Path, units: Any) -> list[tuple[str, str]]:
    """(unit, sha256) of every shard that the seal names; there is at least one."""
    try:
        pairs = [
            (unit, digest) for unit, digest in units if is_unit_name(unit) and len(digest) == 64
        ]
    except (TypeError, ValueError) as error:
        raise damaged(folder / SEALED, "its units are not pairs of a name and a hash") from error
    if not pairs or len(pairs) != len(units):
        raise damaged(folder / SEALED, "it names no units, or some without a hash")
    return pairs


def check_plan(store: Store) -> None:
    """Raise StoreError unless header, plan and commit records agree with the sealed shards."""
    folder = store.folder
    about = read_header(folder)
    units = read_plan(folder, about["plan"])
    if about["schema"] != described(store.schema):
        raise damaged(folder / STORE, "it names other columns than the shards hold")
    for unit, shard in zip(units, store.shards, strict=True):
        open_committed(folder, unit)
        commit = commit_path(folder, unit.name)
        if shard_path(folder, unit.name, read_commit(commit)["sha256"]) != shard.path:
            raise damaged(commit, "it names another shard")
