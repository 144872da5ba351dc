"""The intent and the record beside every artifact: what it is to be made from, and what it became.

A stage's *intent* is written before it works and its *record* after it has succeeded. The intent
holds the settings that decide the result, the fingerprints of the artifacts read and the identities
of the models used. Comparing an intent on disk with the one that the recipe asks for now finds
every drift (``changes.py``).
"""

import importlib.metadata
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from leyden.errors import REDO, StoreError
from leyden.files import read_object, write_json
from leyden.provenance.identity import ModelIdentity, fingerprint, hash_file
from leyden.typed_json import first_problem

INTENT, RECORD, CHECKSUM = "intent.json", "record.json", "checksum"
OLD_FACTS = ("stop_ids", "vocab_size", "vocabulary", "template")  # were among the counts once


Numerics = dict[str, Any]
"""Names and values that change rounding alone, such as dtype, engine and versions."""
ANY_ROLE = ""  # the first versions noted one set of numerics, for every role


@dataclass(frozen=True)
class Intent:
    """Everything that a job is about to make its artifact from."""

    stage: str
    """The job, such as ``distill/topk_tail``."""
    settings: dict[str, Any]
    """The recipe's fields that decide the result, as JSON values."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Name of an artifact or file -> its fingerprint."""
    models: dict[str, ModelIdentity] = field(default_factory=dict)
    """Role -> identity of a model that came from outside the run."""
    numerics: dict[str, Numerics] = field(default_factory=dict)
    """Role of an engine, or ``trainer`` -> what changes its rounding. Not in the digest."""

    @property
    def digest(self) -> str:
        """Hex sha256 of everything but the numerics."""
        return fingerprint({k: v for k, v in asdict(self).items() if k != "numerics"})


@dataclass(frozen=True)
class Record:
    """The result of a finished job. It is written last, so its existence means success."""

    intent: Intent
    fingerprint: str
    """Of the artifact's content."""
    counts: dict[str, Any]
    """``rows``, ``tokens`` and whatever else the stage counts."""
    device_seconds: float
    phases: dict[str, float] = field(default_factory=dict)
    """These seconds by what they were spent on, where a stage does several things."""
    teacher_consistency: str = ""
    """``verified``, ``declared`` or ``overridden``; empty but for scores."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Versions, device and threads: for people, never compared."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Facts that later stages need without opening the artifact, such as stop ids."""


def package_versions(*packages: str) -> dict[str, str]:
    """Name -> installed version, read from metadata alone."""
    return {name: importlib.metadata.version(name) for name in packages}


def write_intent(folder: Path, intent: Intent) -> None:
    """Write intent.json, before the job works."""
    write_checked(folder / INTENT, asdict(intent))


def write_record(folder: Path, record: Record) -> None:
    """Write record.json, after everything else of the job."""
    write_checked(folder / RECORD, asdict(record))


def reopen(folder: Path) -> None:
    """Make a finished job unfinished again, with everything that it made still there."""
    (folder / RECORD).unlink()


def write_checked(path: Path, values: dict[str, Any]) -> None:
    """Write JSON with a checksum of its own."""
    write_json(path, {**values, CHECKSUM: fingerprint(values)})


def read_checked(path: Path) -> dict[str, Any]:
    """Read what ``write_checked`` wrote. Raises StoreError where it was edited."""
    values = read_object(path, CHECKSUM)
    recorded = values.pop(CHECKSUM)
    if fingerprint(values) != recorded:
        raise StoreError(
            f"{path}: was edited: its content does not match its checksum",
            hint=f"restore the file from a copy, or {REDO}",
        )
    return values


def read_intent(folder: Path) -> Intent | None:
    """The intent in ``folder``, or None where no job has begun."""
    path = folder / INTENT
    return _intent(read_checked(path), path) if path.exists() else None


def read_record(folder: Path) -> Record | None:
    """The record in ``folder``, or None where no job has finished."""
    path = folder / RECORD
    if not path.exists():
        return None
    values = read_checked(path)
    try:
        values["intent"] = _intent(values["intent"], path)
        record = Record(**_with_facts(values))
        Told.model_validate({**vars(record), "intent": {}})
        return record
    except (TypeError, KeyError, AttributeError) as error:
        raise _unreadable(path, error) from error
    except ValidationError as error:
        raise _unreadable(path, first_problem(error)) from error


class _Told(BaseModel):
    """Values of a record as files tell them: fields of these types, and any others."""

    model_config = ConfigDict(extra="allow", strict=True)


class Counts(_Told):
    """The counts of a record that everybody reads."""

    rows: int = 0
    tokens: int = 0
    not_graded: int = 0
    overlap: dict[str, dict[str, int]] = {}


class Facts(_Told):
    """The facts of a training job's record."""

    parts: dict[str, str] = {}
    metrics: str = ""


class Told(_Told):
    """The fields of a record."""

    fingerprint: str
    counts: Counts
    device_seconds: float
    phases: dict[str, float]
    teacher_consistency: str
    environment: dict[str, Any]
    facts: Facts


def _with_facts(values: dict[str, Any]) -> dict[str, Any]:
    """A record of the first versions kept its facts among the counts."""
    if "facts" in values:
        return values
    counts = values["counts"]
    facts = {name: counts[name] for name in OLD_FACTS if name in counts}
    kept = {name: value for name, value in counts.items() if name not in facts}
    return values | {"counts": kept, "facts": facts}


def require_record(folder: Path, *, reader: str) -> Record:
    """The record in ``folder``. Raises StoreError, naming the ``reader``, where there is none."""
    record = read_record(folder)
    if record is None:
        raise unfinished(folder, reader)
    return record


def unfinished(folder: Path, reader: object) -> StoreError:
    """The error for a ``folder`` without a record, which ``reader`` needs."""
    if not folder.exists():
        return StoreError(f"{folder}: no such folder", hint="check the path")
    return StoreError(
        f"{folder}: {reader} needs this stage finished, and it is not",
        hint="run the stages before it first, or `leyden run RECIPE` for all of them",
    )


def require_same(path: Path, content: str, recorded: str) -> None:
    """Raise StoreError unless ``path`` has the recorded fingerprint."""
    if content != recorded:
        raise StoreError(
            f"{path}: its content is {content[:12]}, recorded {recorded[:12]}",
            hint=f"restore it from a copy, or {REDO}",
        )


def require_file(path: Path, recorded: str) -> None:
    """Raise StoreError unless there is a file at ``path`` with the recorded sha256."""
    require_same(path, hash_file(path) if path.exists() else "missing", recorded)


def _intent(values: dict[str, Any], path: Path) -> Intent:
    try:
        values["models"] = {r: ModelIdentity(**parts) for r, parts in values["models"].items()}
        values["numerics"] = _by_role(values["numerics"])
        return Intent(**values)
    except (TypeError, KeyError, AttributeError) as error:
        raise _unreadable(path, error) from error


def _by_role(numerics: dict[str, Any]) -> dict[str, Numerics]:
    flat = any(not isinstance(value, dict) for value in numerics.values())
    return {ANY_ROLE: numerics} if flat else numerics


def _unreadable(path: Path, error: Exception | str) -> StoreError:
    return StoreError(
        f"{path}: not a record of this version of leyden: {error}",
        hint=f"use the version that wrote it, or {REDO}",
    )
