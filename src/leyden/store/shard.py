"""A sealed shard in memory: its columns, whose rows are slices, checked once as a whole."""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from leyden.files import disk_errors
from leyden.provenance.identity import FileMark, file_mark
from leyden.store.schema import CHECKSUM, shard_checksums
from leyden.store.unit import damaged, open_shard, shard_path

ASK_SECONDS = 0.01


@dataclass(frozen=True)
class Lists:
    """A column of lists without a copy: list i is ``values[offsets[i]:offsets[i + 1]]``."""

    values: np.ndarray
    offsets: list[int]

    @property
    def entries(self) -> np.ndarray:
        """The entries of all lists, one after the other."""
        return self.values[self.offsets[0] : self.offsets[-1]]

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.offsets[index] : self.offsets[index + 1]]


Columns = dict[str, list[Any] | Lists]
"""Column -> the values of a shard's rows."""


@dataclass
class Shard:
    """A memory-mapped shard with the sha256 ``digest``.

    ``mark`` is its file's when its bytes had that digest, which was asked last at ``asked``.
    """

    unit: str
    digest: str
    path: Path
    table: pa.Table
    mark: FileMark
    asked: float = 0.0

    @classmethod
    def open(cls, folder: Path, unit: str, digest: str) -> "Shard":
        """Map a unit's shard. Raises StoreError unless its bytes have the sha256 ``digest``."""
        path = shard_path(folder, unit, digest)
        with disk_errors(path):
            # Before the bytes are read, so that no later change escapes.
            mark = file_mark(path) if path.exists() else FileMark(0, 0, 0, 0)
        return cls(unit, digest, path, open_shard(path, digest), mark)

    @cached_property
    def columns(self) -> Columns:
        """The columns as Python and NumPy have them. Raises StoreError where a row does not match
        its crc32, which the writer took before Arrow saw the row."""
        if missing := [n for n in self.table.schema.names if _has_missing(self.table.column(n))]:
            raise damaged(self.path, f"column {missing[0]} has missing values")
        stored = self.table.column(CHECKSUM).to_pylist()
        for row, (crc, expected) in enumerate(
            zip(shard_checksums(self.table), stored, strict=True)
        ):
            if crc != expected:
                raise damaged(self.path, f"row {row} does not match its crc32")
        return {name: _column(self.table.column(name)) for name in self.table.schema.names}

    def check_unchanged(self) -> None:
        """Raise StoreError where the file has other bytes than when it was opened.

        The map shows what others write into the file, so this is called before every row. The file
        system is asked at most once in ``ASK_SECONDS``: asking costs as much as a row.
        """
        now = time.monotonic()
        if now - self.asked < ASK_SECONDS:
            return
        self.asked = now
        with disk_errors(self.path):
            mark = file_mark(self.path)
            if mark != self.mark:  # a backup that links to the file changes its mark as well
                open_shard(self.path, self.digest)
                self.mark = mark


def _has_missing(column: pa.ChunkedArray) -> bool:
    array = column.combine_chunks()
    return bool(array.null_count or (pa.types.is_list(array.type) and array.values.null_count))


def _column(chunked: pa.ChunkedArray) -> list[Any] | Lists:
    array = chunked.combine_chunks()
    if not pa.types.is_list(array.type):
        return array.to_pylist()
    values = array.values.to_numpy(zero_copy_only=False)
    values.setflags(write=False)
    return Lists(values, array.offsets.to_pylist())
