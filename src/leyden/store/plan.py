"""The plan of a store: its rows, in units, with their seeds, fixed before the first token.

A row's seed depends on the run's seed, the stage, the prompt and the sample, never on the unit, the
batch or the worker.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from leyden.errors import REDO, StoreError
from leyden.files import disk_errors, refuse_links, write_atomic
from leyden.provenance.identity import derive_seed
from leyden.store.arrow import read_table

PLAN = "plan.arrow"
UNIT_NAME = re.compile(r"[0-9]{6,12}")
SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("prompt_id", pa.string()),
        ("sample", pa.int32()),
        ("seed", pa.int64()),
    ]
)


@dataclass(frozen=True)
class PlanRow:
    """One row to make: a sample of a prompt, and the seed that decides it."""

    prompt_id: str
    sample: int
    seed: int


@dataclass(frozen=True)
class Unit:
    """The rows that are committed together."""

    name: str
    rows: tuple[PlanRow, ...]


def make_plan(
    prompt_ids: Sequence[str], *, samples: int, rows_per_unit: int, seed: int, purpose: str
) -> list[Unit]:
    """Units over every (prompt, sample), prompts in order."""
    rows = [
        PlanRow(prompt_id, sample, derive_seed(seed, purpose, prompt_id, sample))
        for prompt_id in prompt_ids
        for sample in range(samples)
    ]
    return cut_units(rows, rows_per_unit)


def cut_units(rows: Sequence[PlanRow], rows_per_unit: int) -> list[Unit]:
    """Consecutive rows as numbered units."""
    starts = range(0, len(rows), rows_per_unit)
    return [
        Unit(f"{i:06d}", tuple(rows[start : start + rows_per_unit]))
        for i, start in enumerate(starts)
    ]


def write_plan(folder: Path, units: Sequence[Unit]) -> str:
    """Write the plan and return the sha256 of its file."""
    rows = [(u.name, r.prompt_id, r.sample, r.seed) for u in units for r in u.rows]
    columns = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(pa.Table.from_arrays(columns, schema=SCHEMA))
    data = sink.getvalue().to_pybytes()
    write_atomic(folder / PLAN, data)
    return hashlib.sha256(data).hexdigest()


def read_plan(folder: Path, digest: str) -> list[Unit]:
    """The plan, whose file must have the sha256 ``digest``."""
    path = folder / PLAN
    with disk_errors(path):
        data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise StoreError(
            f"{path}: damaged, or not the plan that this store names",
            hint=f"restore the file from a copy, or {REDO}",
        )
    units: dict[str, list[PlanRow]] = {}
    refuse_links(path)
    try:
        rows = read_table(path).cast(SCHEMA).to_pylist()
    except (ValueError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged: {error}", hint=f"restore it, or {REDO}") from error
    for row in rows:
        units.setdefault(row["unit"], []).append(
            PlanRow(row["prompt_id"], row["sample"], row["seed"])
        )
    if foreign := [name for name in units if not is_unit_name(name)]:
        raise StoreError(
            f"{path}: {foreign[0]!r} is no name of a unit", hint=f"restore the file, or {REDO}"
        )
    return [Unit(name, tuple(plan_rows)) for name, plan_rows in units.items()]


def is_unit_name(name: Any) -> bool:
    """Whether this is a name that ``cut_units`` gives. It becomes part of file names."""
    return isinstance(name, str) and UNIT_NAME.fullmatch(name) is not None
