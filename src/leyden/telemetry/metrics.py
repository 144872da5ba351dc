"""The file metrics.jsonl: a JSON line per measurement, with ``step`` and ``split``. No torch."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leyden.errors import REDO, StoreError
from leyden.files import disk_errors, write_atomic
from leyden.typed_json import read_lines

Measurement = dict[str, Any]
"""A line of the file: ``step``, ``split`` (train or heldout), and numbers by name."""


def append_metrics(path: Path, values: Measurement) -> None:
    """Add one measurement."""
    with disk_errors(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def seal_metrics(path: Path) -> dict[str, Any]:
    """Wait until the file is on the disk, and describe it: ``bytes`` and their ``sha256``."""
    with disk_errors(path), open(path, "rb+") as file:
        os.fsync(file.fileno())
        data = file.read()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def restore_metrics(path: Path, sealed: Mapping[str, Any]) -> None:
    """Keep what ``seal_metrics`` described. Later steps, of a killed run, will be done again.

    Raises StoreError unless the file begins with it; whatever a power cut left behind it goes.
    """
    data = (path.read_bytes() if path.is_file() else b"")[: sealed["bytes"]]
    if hashlib.sha256(data).hexdigest() != sealed["sha256"]:
        raise StoreError(
            f"{path}: lines of it changed or are gone since the checkpoint was written",
            hint=f"restore the file from a copy, or {REDO}",
        )
    write_atomic(path, data)


def truncate_metrics(path: Path, step: int) -> None:
    """Keep the lines up to ``step``, where no checkpoint describes them."""
    kept = [] if step == 0 else [m for m in read_metrics(path) if m["step"] <= step]
    write_atomic(path, "".join(json.dumps(m) + "\n" for m in kept).encode())


def trained_tokens(path: Path) -> int:
    """Completion tokens that carried loss, over all optimizer steps."""
    return sum(m["tokens"] for m in read_metrics(path) if m["split"] == "train")


def read_metrics(path: Path) -> list[Measurement]:
    """All complete lines of a metrics file; none where there is no file."""
    if not path.exists():
        return []
    rows = list(read_lines(path, dict[str, int | float | str], growing=True))
    for number, row in enumerate(rows, start=1):
        if not _is_measurement(row):
            raise StoreError(
                f"{path}:{number}: damaged: not a measurement with step, split, tokens and loss",
                hint=REDO,
            )
    return rows


def criterion(measured: Mapping[str, Any]) -> float:
    """The number by which held-out measurements are compared, lower being better.

    It is the reverse KL to the teacher by the stored top k, or the loss where none is stored: a
    sampled loss may fall on its rollouts while the student leaves the teacher (labs/parity).
    """
    return float(measured.get("kl_topk", measured["loss"]))


def _is_measurement(row: Any) -> bool:
    """Numbers under every name but ``split``; a loss may be NaN."""
    if not isinstance(row, dict) or not {"step", "split", "tokens", "loss"} <= row.keys():
        return False
    numbers = (value for name, value in row.items() if name != "split")
    return type(row["step"]) is int and all(type(v) in (int, float) for v in numbers)
