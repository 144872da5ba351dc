"""Write a store: commit its units, in any order, from any number of processes, then seal it.

The time that a unit took is kept apart (``timings/``), so that the shards, records and seal of a
store are the same bytes every time.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from leyden.errors import REDO, StoreError
from leyden.files import (
    create_once,
    json_bytes,
    read_object,
    refuse_links,
    remove_temporaries,
    whole_files,
    write_json,
)
from leyden.provenance.identity import fingerprint
from leyden.store.claim import LEASES, committed_names, forget_leases
from leyden.store.plan import PLAN, Unit, is_unit_name, join_rows, read_plan, write_plan
from leyden.store.schema import FORMAT_VERSION, notes_of, rows_to_table
from leyden.store.unit import (
    COMMITS,
    SHARDS,
    commit_path,
    is_shard_name,
    num_tokens,
    open_committed,
    read_commit,
    shard_path,
    write_commit,
    write_shard,
)

STORE, SEALED, TIMINGS = "store.json", "SEALED.json", "timings"
SECONDS = "device_seconds"


@dataclass(frozen=True)
class StoreWriter:
    """An open store folder and the plan it follows."""

    folder: Path
    schema: pa.Schema
    units: tuple[Unit, ...]
    begun: tuple[int, int] = (0, 0)
    """The file store.json, as the system names it: another one is another store."""

    def pending(self) -> list[Unit]:
        """Units without a commit, in plan order."""
        done = committed_names(self.folder)
        return [unit for unit in self.units if unit.name not in done]

    def commit(self, unit: Unit, rows: Sequence[dict[str, Any]], *, seconds: float) -> None:
        """Make ``rows``, in the unit's order, part of the store, unless another worker did."""
        self.check_same()
        if commit_path(self.folder, unit.name).exists():
            return
        keys = [(row["prompt_id"], row["sample"]) for row in rows]
        assert keys == [(row.prompt_id, row.sample) for row in unit.rows], "rows do not follow plan"
        table = rows_to_table(list(rows), self.schema)
        try:
            digest = write_shard(self.folder, unit.name, table)
            timing = json.dumps({SECONDS: seconds}).encode()
            # The record comes last: a unit without its timing is not yet a unit.
            create_once(self.folder / TIMINGS / f"{unit.name}.json", timing)
            self.check_same()
            write_commit(self.folder, unit.name, digest, table)
        except StoreError:
            # Another worker committed the unit, and its store was sealed and swept meanwhile.
            if not commit_path(self.folder, unit.name).exists():
                raise

    def check_same(self) -> None:
        """Raise StoreError where the store was begun anew since it was opened, as by ``--redo``."""
        if self.begun != _identity(self.folder / STORE):
            raise StoreError(
                f"{self.folder}: was begun anew since this process opened it; its rows are not "
                "kept",
                hint="stop all workers of a stage before you make it again",
            )

    def check_committed(self) -> None:
        """Raise StoreError, naming the file, where a committed unit is not what was committed."""
        pending = {unit.name for unit in self.pending()}
        for unit in self.units:
            if unit.name not in pending:
                table = open_committed(self.folder, unit)
                if table.schema.metadata != self.schema.metadata:
                    raise StoreError(
                        f"{self.folder}: unit {unit.name} was made otherwise: it says "
                        f"{notes_of(table.schema)}, and this engine gives {notes_of(self.schema)}",
                        hint=f"go on with the engine that began the store, or {REDO}",
                    )

    def seal(self) -> str:
        """Declare the store complete and return its dataset fingerprint; every unit must be in."""
        if missing := self.pending():
            raise StoreError(
                f"{self.folder}: {len(missing)} of {len(self.units)} units are missing, first "
                f"{missing[0].name}",
                hint="run the stage again to resume it",
            )
        committed = {unit.name: open_committed(self.folder, unit) for unit in self.units}
        shards = [
            (name, read_commit(commit_path(self.folder, name))["sha256"], table)
            for name, table in committed.items()
        ]
        seal = sealed_content(self.schema, shards)
        # Two workers may have made a unit; the shard that the record does not name goes.
        forget_leases(self.folder)
        self._sweep({shard_path(self.folder, name, sha).name for name, sha in seal["units"]})
        create_once(self.folder / SEALED, json_bytes(seal))
        return seal["dataset_fingerprint"]

    def _sweep(self, committed: set[str]) -> None:
        """Remove temporary files and uncommitted shards, which killed workers left. Files with
        other names are not ours and stay."""
        for name in (".", SHARDS, COMMITS, TIMINGS):
            remove_temporaries(self.folder / name)
        for path in (self.folder / SHARDS).iterdir():
            if path.name not in committed and is_shard_name(path.name) and path.is_file():
                path.unlink()

    def device_seconds(self) -> float:
        """Seconds that all committed units took, over every process that worked on them."""
        return device_seconds(self.folder)


def read_header(folder: Path) -> dict[str, Any]:
    """Read store.json. Raises StoreError where another version of the format wrote it."""
    path = folder / STORE
    about = read_object(path, "format_version", "plan", "origin", "schema")
    if about["format_version"] != FORMAT_VERSION:
        raise StoreError(
            f"{path}: format version {about['format_version']}, expected {FORMAT_VERSION}",
            hint="use the version of leyden that wrote it",
        )
    return about


def device_seconds(folder: Path) -> float:
    """The sum over all units of the stores in ``folder`` and below."""
    total = 0.0
    for path in whole_files(folder, f"**/{TIMINGS}/*.json"):
        seconds = read_object(path, SECONDS)[SECONDS]
        if type(seconds) not in (int, float):
            raise StoreError(
                f"{path}: {SECONDS} is {seconds!r}, not a number",
                hint="delete that file; it only says how long a unit took",
            )
        total += seconds
    return total


def open_writer(
    folder: Path, schema: pa.Schema, units: Sequence[Unit], *, origin: str
) -> StoreWriter:
    """Begin a store, or resume one. ``origin`` is the digest of the intent it is made from.

    A resumed store keeps its own plan, which must hold the rows of ``units``, cut in any way.
    Raises StoreError where it does not, or where a committed unit is damaged.
    """
    header = folder / STORE
    refuse_links(header, *(folder / name for name in (SHARDS, COMMITS, TIMINGS, LEASES)))
    if not header.exists():
        if not units:
            raise StoreError(f"{folder}: the plan is empty", hint="check the prompt file and limit")
        about = {
            "format_version": FORMAT_VERSION,
            "schema": described(schema),
            "plan": write_plan(folder, units),
            "origin": origin,
        }
        write_json(header, about)
        return StoreWriter(folder, schema, tuple(units), _identity(header))
    writer = _begun(folder, schema, units, origin)
    writer.check_committed()
    return writer


def join_writer(
    folder: Path, schema: pa.Schema, units: Sequence[Unit], *, origin: str
) -> StoreWriter | None:
    """A store that another process has begun, or None where none has. What is committed is left
    to that process to check. Raises StoreError as ``open_writer`` does."""
    return _begun(folder, schema, units, origin) if (folder / STORE).exists() else None


def _begun(folder: Path, schema: pa.Schema, units: Sequence[Unit], origin: str) -> StoreWriter:
    header = folder / STORE
    refuse_links(folder / LEASES)
    identity, about = _identity(header), read_header(folder)
    planned = read_plan(folder, about["plan"])
    if about["schema"] != described(schema):
        raise StoreError(f"{header}: names other columns", hint=REDO)
    # Rows are compared, not units: the size of a unit may change, the samples may not.
    if about["origin"] != origin or join_rows(planned) != join_rows(units):
        raise StoreError(f"{folder}: was begun from other settings or prompts", hint=REDO)
    return StoreWriter(folder, schema, tuple(planned), identity)


def _identity(header: Path) -> tuple[int, int]:
    try:
        about = header.stat()
    except FileNotFoundError:
        return (0, 0)
    return about.st_ino, about.st_mtime_ns


def forget_store(folder: Path) -> None:
    """Remove the beginnings of a store that has no committed unit. Shards without a commit are
    swept by the next store that is sealed there."""
    assert not whole_files(folder / COMMITS, "*.json"), "committed work is never forgotten"
    for path in (folder / STORE, folder / PLAN):
        path.unlink(missing_ok=True)
    for path in (folder / TIMINGS).glob("*.json"):
        if is_unit_name(path.stem):
            path.unlink(missing_ok=True)


def sealed_content(
    schema: pa.Schema, shards: Sequence[tuple[str, str, pa.Table]]
) -> dict[str, Any]:
    """The content of SEALED.json, from (unit, sha256, rows) in order. ``dataset_fingerprint`` is
    the hash of the whole store: its columns and every shard."""
    units = [[unit, digest] for unit, digest, _ in shards]
    return {
        "units": units,
        "dataset_fingerprint": fingerprint({"schema": described(schema), "shards": units}),
        "rows": sum(table.num_rows for _, _, table in shards),
        "tokens": sum(num_tokens(table) for _, _, table in shards),
    }


def described(schema: pa.Schema) -> dict[str, str]:
    """Column -> its type, as the header and the fingerprint say them."""
    return {field.name: str(field.type) for field in schema}
