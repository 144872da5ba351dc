"""Write a store: commit unit after unit, in any order, from any number of processes, then seal it.

Commit order: the shard to a temporary name, fsync, rename, fsync of the folder; then its commit
record the same way. The record's existence is the commit. No file is ever rewritten. How long a
unit took is kept apart (``timings/``), so that a store's shards, records and seal are the same
bytes every time.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from leyden.errors import StoreError
from leyden.files import (
    create_once,
    json_bytes,
    read_json,
    read_object,
    remove_temporaries,
    whole_files,
    write_atomic,
    write_json,
)
from leyden.identity import fingerprint
from leyden.store.plan import PLAN, Unit, plan_digest, read_plan, write_plan
from leyden.store.schema import FORMAT_VERSION, rows_to_table

STORE, SEALED = "store.json", "SEALED.json"
SHARDS, COMMITS, TIMINGS = "shards", "commits", "timings"


@dataclass(frozen=True)
class StoreWriter:
    """An open store folder and the plan it follows."""

    folder: Path
    schema: pa.Schema
    units: tuple[Unit, ...]

    def pending(self) -> list[Unit]:
        """Units without a commit, in plan order."""
        done = {path.stem for path in whole_files(self.folder / COMMITS, "*.json")}
        return [unit for unit in self.units if unit.name not in done]

    def commit(self, unit: Unit, rows: Sequence[dict[str, Any]], *, seconds: float) -> None:
        """Make ``rows``, in the unit's order, part of the store, unless another worker did."""
        keys = [(row["prompt_id"], row["sample"]) for row in rows]
        assert keys == [(row.prompt_id, row.sample) for row in unit.rows], "rows do not follow plan"
        table = rows_to_table(list(rows), self.schema)
        digest = self._write_shard(unit, table)
        create_once(
            self.folder / TIMINGS / f"{unit.name}.json",
            json.dumps({"device_seconds": seconds}).encode(),
        )
        record = {"sha256": digest, "rows": len(rows), **_statistics(table)}
        create_once(self.folder / COMMITS / f"{unit.name}.json", json_bytes(record))

    def _write_shard(self, unit: Unit, table: pa.Table) -> str:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, self.schema) as writer:
            writer.write_table(table)
        data = memoryview(sink.getvalue())
        digest = hashlib.sha256(data).hexdigest()
        write_atomic(shard_path(self.folder, unit.name, digest), data)
        return digest

    def seal(self) -> str:
        """Declare the store complete and return its dataset fingerprint; every unit must be in."""
        if missing := self.pending():
            raise StoreError(
                f"{self.folder}: {len(missing)} of {len(self.units)} units are missing, first "
                f"{missing[0].name}",
                hint="run the stage again to resume it",
            )
        commits = {u.name: read_json(self.folder / COMMITS / f"{u.name}.json") for u in self.units}
        shards = [[name, commit["sha256"]] for name, commit in commits.items()]
        totals = {
            key: sum(commit[key] for commit in commits.values()) for key in ("rows", "tokens")
        }
        digest = dataset_fingerprint(self.schema, shards)
        self._sweep({shard_path(self.folder, name, sha).name for name, sha in shards})
        seal = {"units": shards, "dataset_fingerprint": digest, **totals}
        create_once(self.folder / SEALED, json_bytes(seal))
        return digest

    def _sweep(self, wanted: set[str]) -> None:
        """Remove what killed workers left: temporary files and shards that were never committed."""
        for name in (".", SHARDS, COMMITS, TIMINGS):
            remove_temporaries(self.folder / name)
        for path in (self.folder / SHARDS).iterdir():
            if path.name not in wanted:
                path.unlink()

    def device_seconds(self) -> float:
        """Seconds that all committed units took, over every process that worked on them."""
        files = whole_files(self.folder / TIMINGS, "*.json")
        return float(sum(read_json(file)["device_seconds"] for file in files))


def open_writer(
    folder: Path, schema: pa.Schema, units: Sequence[Unit], *, origin: str
) -> StoreWriter:
    """Begin a store, or resume one. ``origin`` is the digest of the intent it is made from.

    On resume the plan on disk rules; it must hold the same rows as ``units``, split in any way.
    """
    header = folder / STORE
    if not header.exists():
        if not units:
            raise StoreError(f"{folder}: the plan is empty", hint="check the prompt file and limit")
        write_plan(folder, units)
        about = {
            "format_version": FORMAT_VERSION,
            "schema": _described(schema),
            "plan": plan_digest(units),
            "origin": origin,
        }
        write_json(header, about)
        return StoreWriter(folder, schema, tuple(units))
    about, planned = read_object(header, "plan", "origin"), read_plan(folder)
    if about["plan"] != plan_digest(planned):
        raise StoreError(f"{folder / PLAN}: does not match {STORE}", hint="redo the stage")
    if about["origin"] != origin or _rows(planned) != _rows(units):
        raise StoreError(
            f"{folder}: was begun from other settings or prompts", hint="redo the stage"
        )
    return StoreWriter(folder, schema, tuple(planned))


def _rows(units: Sequence[Unit]) -> list[Any]:
    return [row for unit in units for row in unit.rows]


def dataset_fingerprint(schema: pa.Schema, shards: Sequence[Sequence[str]]) -> str:
    """Hash of what a store holds: its columns and the (unit, sha256) of every shard, in order."""
    return fingerprint({"schema": _described(schema), "shards": [list(s) for s in shards]})


def shard_path(folder: Path, unit: str, digest: str) -> Path:
    return folder / SHARDS / f"{unit}-{digest[:16]}.arrow"


def _described(schema: pa.Schema) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}


def _statistics(table: pa.Table) -> dict[str, Any]:
    """Tokens of a shard and, per log-prob column, its mean and extremes over all tokens."""
    found: dict[str, Any] = {}
    for name in table.schema.names:
        if name in ("logp_sampler", "logp_teacher", "logp_reference"):
            values = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            found["tokens"] = len(values)
            with contextlib.suppress(ValueError):  # no tokens, no extremes
                low, high = float(np.min(values)), float(np.max(values))
                mean = float(np.mean(values, dtype=np.float64))
                found[name] = {"mean": mean, "min": low, "max": high}
    return found
