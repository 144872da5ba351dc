"""The plan of a store: its rows, in units, with their seeds, fixed before the first token.

A row's seed depends on the run's seed, the stage, the prompt and the sample, never on the unit, the
batch or the worker.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from leyden.errors import REDO, StoreError
from leyden.files import disk_errors, refuse_links, write_atomic
from leyden.provenance.identity import derive_seeds, hash_once
from leyden.store.arrow import read_table

PLAN = "plan.arrow"
UNIT_NAME = re.compile(r"[0-9]{6,12}")
ROWS = pa.schema([("prompt_id", pa.string()), ("sample", pa.int32()), ("seed", pa.int64())])
SCHEMA = pa.schema([pa.field("unit", pa.string()), *ROWS])


class PlanRow(NamedTuple):
    """One row to make: a sample of a prompt, and the seed that decides it."""

    prompt_id: str
    sample: int
    seed: int


@dataclass(frozen=True)
class PlanRows:
    """Planned rows as columns, because objects for five million of them would fill a gigabyte.

    Its parts share its memory.
    """

    columns: pa.RecordBatch

    @classmethod
    def of(cls, rows: Iterable[PlanRow | tuple[str, int, int]]) -> "PlanRows":
        """The columns of ``rows``, each (prompt_id, sample, seed)."""
        columns = list(zip(*rows, strict=True)) or [(), (), ()]
        return cls.from_columns(*columns)

    @classmethod
    def from_columns(cls, prompt_id: Any, sample: Any, seed: Any) -> "PlanRows":
        """Rows of three columns, each a sequence, a NumPy or an Arrow array."""
        arrays = [
            column.cast(field.type)
            if isinstance(column, pa.Array)
            else pa.array(column, field.type)
            for column, field in zip((prompt_id, sample, seed), ROWS, strict=True)
        ]
        return cls(pa.RecordBatch.from_arrays(arrays, schema=ROWS))

    def __len__(self) -> int:
        return self.columns.num_rows

    def __iter__(self) -> Iterator[PlanRow]:
        return map(PlanRow, *(column.to_pylist() for column in self.columns.columns))

    def part(self, start: int, stop: int) -> "PlanRows":
        """Rows ``start`` to ``stop``, without a copy."""
        return PlanRows(self.columns.slice(start, stop - start))


@dataclass(frozen=True)
class Unit:
    """The rows that are committed together."""

    name: str
    rows: PlanRows


def make_plan(
    prompt_ids: Sequence[str], *, samples: int, rows_per_unit: int, seed: int, purpose: str
) -> list[Unit]:
    """Units over every (prompt, sample), prompts in order."""
    prompts = pa.array(prompt_ids, pa.string())
    places = np.repeat(np.arange(len(prompt_ids)), samples)
    numbers = np.tile(np.arange(samples), len(prompt_ids))
    seeds = derive_seeds(seed, purpose, names=prompt_ids, count=samples)
    seed_column = np.fromiter(seeds, np.int64, count=len(places))
    rows = PlanRows.from_columns(prompts.take(pa.array(places)), numbers, seed_column)
    return cut_units(rows, rows_per_unit)


def cut_units(rows: PlanRows, rows_per_unit: int) -> list[Unit]:
    """Consecutive rows as numbered units."""
    starts = range(0, len(rows), rows_per_unit)
    return [
        Unit(f"{i:06d}", rows.part(start, min(start + rows_per_unit, len(rows))))
        for i, start in enumerate(starts)
    ]


def join_rows(units: Sequence[Unit]) -> PlanRows:
    """The rows of all units, in order."""
    table = pa.Table.from_batches([unit.rows.columns for unit in units], schema=ROWS)
    batches = table.combine_chunks().to_batches()
    return PlanRows(batches[0]) if batches else PlanRows.of(())


def write_plan(folder: Path, units: Sequence[Unit]) -> str:
    """Write the plan and return the sha256 of its file."""
    names = pa.array([unit.name for unit in units], pa.string())
    of_row = np.repeat(np.arange(len(units)), [len(unit.rows) for unit in units])
    columns = [names.take(pa.array(of_row)), *join_rows(units).columns.columns]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(pa.Table.from_arrays(columns, schema=SCHEMA))
    data = memoryview(sink.getvalue())  # hashed and written from one buffer
    write_atomic(folder / PLAN, data)
    return hashlib.sha256(data).hexdigest()


def read_plan(folder: Path, digest: str) -> list[Unit]:
    """The plan, whose file must have the sha256 ``digest``."""
    path = folder / PLAN
    refuse_links(path)
    with disk_errors(path):
        content = hash_once(path)
    if content != digest:
        raise StoreError(
            f"{path}: damaged, or not the plan that this store names",
            hint=f"restore the file from a copy, or {REDO}",
        )
    try:
        table = read_table(path, {field.name: field.type for field in SCHEMA})
        return _units_of(table.cast(SCHEMA).combine_chunks())
    except (ValueError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged: {error}", hint=f"restore it, or {REDO}") from error


def _units_of(table: pa.Table) -> list[Unit]:
    """The units of a plan's table. Raises ValueError where a name is not one of ours, or comes
    again after another."""
    if not table.num_rows:
        raise ValueError("it has no rows")
    (batch,) = table.select(ROWS.names).to_batches()
    encoded = table.column("unit").combine_chunks().dictionary_encode()
    of_row = encoded.indices.to_numpy()
    starts = [0, *(np.flatnonzero(np.diff(of_row)) + 1).tolist()]
    names = encoded.take(pa.array(starts)).to_pylist()
    if foreign := [name for name in names if not is_unit_name(name)]:
        raise ValueError(f"{foreign[0]!r} is no name of a unit")
    if len(set(names)) < len(names):
        raise ValueError("the rows of a unit do not follow one another")
    rows = PlanRows(batch)
    ends = [*starts[1:], len(rows)]
    return [Unit(n, rows.part(*span)) for n, *span in zip(names, starts, ends, strict=True)]


def is_unit_name(name: Any) -> bool:
    """Whether this is a name that ``cut_units`` gives. It becomes part of file names."""
    return isinstance(name, str) and UNIT_NAME.fullmatch(name) is not None
