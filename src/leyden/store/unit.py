"""One committed unit on disk: a shard, and the record that vouches for it.

Commit order: the shard to a temporary name, fsync, rename, fsync of the folder; then its record
the same way. The record's existence is the commit. No file is ever rewritten.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from leyden.errors import REDO, StoreError
from leyden.files import (
    create_once,
    disk_errors,
    json_bytes,
    read_object,
    refuse_links,
    write_atomic,
)
from leyden.provenance.identity import hash_once
from leyden.store.arrow import read_table
from leyden.store.plan import Unit
from leyden.store.schema import CHECKSUM, COMPLETIONS, scores_schema

SHARDS, COMMITS = "shards", "commits"
LOGPROBS = ("logp_sampler", "logp_teacher", "logp_reference")


KNOWN = {field.name: field.type for field in (*COMPLETIONS, *scores_schema(1))}


def shard_path(folder: Path, unit: str, digest: str) -> Path:
    """The file of a unit's rows. Its name holds the beginning of its sha256."""
    return folder / SHARDS / f"{unit}-{digest[:16]}.arrow"


def is_shard_name(name: str) -> bool:
    """Whether ``shard_path`` gives such names."""
    return re.fullmatch(r"[0-9]{6,12}-[0-9a-f]{16}\.arrow", name) is not None


def commit_path(folder: Path, unit: str) -> Path:
    """The unit's commit record."""
    return folder / COMMITS / f"{unit}.json"


def write_shard(folder: Path, unit: str, table: pa.Table) -> str:
    """Write ``table`` as the unit's shard and return its sha256; not yet committed."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data = memoryview(sink.getvalue())  # hashed and written from one buffer, without a copy
    digest = hashlib.sha256(data).hexdigest()
    write_atomic(shard_path(folder, unit, digest), data)
    return digest


def write_commit(folder: Path, unit: str, digest: str, table: pa.Table) -> None:
    """Commit a shard, unless another worker committed its own."""
    create_once(commit_path(folder, unit), json_bytes(_record(digest, table)))


def read_commit(path: Path) -> dict[str, Any]:
    """Read a commit record. Raises StoreError unless it has a hash and two counts."""
    refuse_links(path)
    record = read_object(path, "sha256", "rows", "tokens")
    kinds = {"sha256": str, "rows": int, "tokens": int}
    if wrong := [key for key, kind in kinds.items() if type(record[key]) is not kind]:
        raise damaged(path, f"its {wrong[0]} is {record[wrong[0]]!r}")
    return record


def open_shard(path: Path, digest: str) -> pa.Table:
    """Memory-map a shard whose bytes have the sha256 ``digest``."""
    refuse_links(path.parent, path)
    if not path.exists():
        raise StoreError(f"{path}: a shard is missing", hint=f"restore it, or {REDO}")
    with disk_errors(path):
        content = hash_once(path)
    if content != digest:
        raise damaged(path, f"its sha256 is {content[:12]}, recorded {digest[:12]}")
    with disk_errors(path):
        try:
            table = read_table(path, KNOWN)
        except ValueError as error:
            raise damaged(path, str(error)) from error
    names = set(table.schema.names)
    if missing := sorted({"prompt_id", "sample", CHECKSUM} - names):
        raise damaged(path, f"it has no column {missing[0]!r}")
    if not names & set(LOGPROBS):
        raise damaged(path, "it has no column of log-probs")
    return table


def open_committed(folder: Path, unit: Unit) -> pa.Table:
    """The rows of a unit. Raises StoreError unless its shard and its record belong together."""
    path = commit_path(folder, unit.name)
    commit = read_commit(path)
    table = open_shard(shard_path(folder, unit.name, commit["sha256"]), commit["sha256"])
    if commit != _record(commit["sha256"], table):
        raise damaged(path, "it does not describe its shard")
    if table.num_rows != len(unit.rows):
        raise damaged(path, f"it has {table.num_rows} rows, planned {len(unit.rows)}")
    return table


def damaged(path: Path, what: str) -> StoreError:
    """The error for a file that is not what was written; ``what`` says how that shows."""
    return StoreError(f"{path}: damaged: {what}", hint=f"restore the file from a copy, or {REDO}")


def num_tokens(table: pa.Table) -> int:
    """Completion tokens of a table of either kind, counted by its log-probs."""
    name = next(name for name in LOGPROBS if name in table.schema.names)
    return len(table[name].combine_chunks().flatten())


def _record(digest: str, table: pa.Table) -> dict[str, Any]:
    """The commit record of a shard: counts, and the mean and extremes of each log-prob column."""
    record: dict[str, Any] = {"sha256": digest, "rows": table.num_rows, "tokens": num_tokens(table)}
    for name in table.schema.names:
        if name in LOGPROBS:
            values = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            if len(values) and np.isfinite(values).all():
                low, high = float(np.min(values)), float(np.max(values))
                mean = float(np.mean(values, dtype=np.float64))
                record[name] = {"mean": mean, "min": low, "max": high}
    return record
