"""The record beside every artifact, what it was made from, and the rules that follow.

A stage writes its *intent* before it works and its *record* after it succeeded. The intent says
what went in: the settings that decide the result, the fingerprints of the artifacts read, the
identities of the models used. Comparing an intent on disk with the one the recipe asks for now
finds every drift: an edited recipe, an artifact remade, a model changed under its name.
"""

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from leyden.errors import ConfigError, ConsistencyError, StoreError
from leyden.files import read_object, write_json
from leyden.provenance.identity import ModelIdentity, fingerprint

INTENT, RECORD, CHECKSUM = "intent.json", "record.json", "checksum"


@dataclass(frozen=True)
class Intent:
    """What a stage is about to make its artifact from."""

    stage: str
    settings: dict[str, Any]
    """The recipe's fields that decide the result, as JSON values."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Artifact name -> its fingerprint."""
    models: dict[str, ModelIdentity] = field(default_factory=dict)
    """Role -> identity of a model that came from outside the run."""
    numerics: dict[str, Any] = field(default_factory=dict)
    """What changes rounding alone: dtype, engine, versions; not in the digest."""

    @property
    def digest(self) -> str:
        return fingerprint({k: v for k, v in asdict(self).items() if k != "numerics"})


@dataclass(frozen=True)
class Record:
    """What a finished stage made; written last, so its existence is the success."""

    intent: Intent
    fingerprint: str
    """Of the artifact's content."""
    counts: dict[str, Any]
    """``rows``, ``tokens`` and whatever else the stage counts."""
    device_seconds: float
    phases: dict[str, float] = field(default_factory=dict)
    """Those seconds by what they were spent on, where a stage does several things."""
    teacher_consistency: str = ""
    """``verified``, ``declared`` or ``overridden``; empty before scoring."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Versions, device, threads: for people, never compared."""


def write_intent(folder: Path, intent: Intent) -> None:
    write_checked(folder / INTENT, asdict(intent))


def write_record(folder: Path, record: Record) -> None:
    write_checked(folder / RECORD, asdict(record))


def write_checked(path: Path, values: dict[str, Any]) -> None:
    """Write JSON with a checksum of its own."""
    write_json(path, {**values, CHECKSUM: fingerprint(values)})


def read_checked(path: Path) -> dict[str, Any]:
    """What ``write_checked`` wrote, which nobody may have edited."""
    values = read_object(path, CHECKSUM)
    recorded = values.pop(CHECKSUM)
    if fingerprint(values) != recorded:
        raise StoreError(
            f"{path}: was edited: its content does not match its checksum",
            hint="restore the file from a copy, or redo its stage",
        )
    return values


def read_intent(folder: Path) -> Intent | None:
    """The intent in ``folder``, or None where no stage has begun."""
    path = folder / INTENT
    return _intent(read_checked(path), path) if path.exists() else None


def read_record(folder: Path) -> Record | None:
    """The record in ``folder``, or None where no stage has finished."""
    path = folder / RECORD
    if not path.exists():
        return None
    values = read_checked(path)
    try:
        values["intent"] = _intent(values["intent"], path)
        return Record(**values)
    except (TypeError, KeyError, AttributeError) as error:
        raise _unreadable(path, error) from error


def require_record(folder: Path, *, wanted_by: str) -> Record:
    record = read_record(folder)
    if record is None:
        raise StoreError(
            f"{folder}: {wanted_by} needs this stage finished, and it is not",
            hint="run the stages before it first, or `leyden run RECIPE` for all of them",
        )
    return record


def require_same(path: Path, found: str, recorded: str) -> None:
    """The content of ``path`` must have the fingerprint that its record says."""
    if found != recorded:
        raise StoreError(
            f"{path}: its content is {found[:12]}, recorded {recorded[:12]}",
            hint="restore it from a copy, or redo its stage",
        )


def _intent(values: dict[str, Any], path: Path) -> Intent:
    try:
        values["models"] = {r: ModelIdentity(**parts) for r, parts in values["models"].items()}
        return Intent(**values)
    except (TypeError, KeyError, AttributeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{path}: not a record of this version of leyden: {error}",
        hint="use the version that wrote it, or redo the stage",
    )


def check_drift(folder: Path, wanted: Intent, *, redo: str) -> None:
    """Refuse when ``folder`` was begun from something else than ``wanted``.

    ``redo`` names the stages whose artifacts would have to be made again.
    """
    begun = read_intent(folder)
    if begun is None or begun.digest == wanted.digest:
        return
    whole, _, one = wanted.stage.partition("/")
    every = f" (or --redo {whole} for every {whole} job)" if one else ""
    hint = f"undo the change, or `leyden run RECIPE --redo {wanted.stage}`{every} to make again: "
    hint += redo
    for key, old, new in _changes(begun.settings, wanted.settings):
        raise ConfigError(
            f"{folder}: made with {key} = {old!r}, and the recipe now says {new!r}", hint=hint
        )
    for role, identity in wanted.models.items():
        before = begun.models.get(role)
        if before is not None and before.digest != identity.digest:
            parts = ", ".join(before.differences(identity))
            raise ConsistencyError(
                f"{folder}: made with the {role} {before.digest[:12]}, which is now "
                f"{identity.digest[:12]}: its {parts} changed",
                hint=hint,
            )
    for name in sorted(begun.inputs.keys() | wanted.inputs.keys()):
        old, new = begun.inputs.get(name, "nothing"), wanted.inputs.get(name, "nothing")
        if old != new:
            raise StoreError(
                f"{folder}: made from {name} {old[:12]}, which is now {new[:12]}", hint=hint
            )
    raise StoreError(f"{folder}: made from other models than the recipe names now", hint=hint)


def check_numerics(folder: Path, begun: Intent, wanted: Intent) -> None:
    """Work goes on in the dtype it was begun in; other changes of rounding are only said."""
    for key, old, new in _changes(begun.numerics, wanted.numerics):
        if key == "dtype":
            raise ConfigError(
                f"{folder}: begun with execution.dtype = {old!r}, and the recipe now says {new!r}",
                hint=f"undo the change, or `leyden run RECIPE --redo {wanted.stage}`",
            )
        logging.getLogger(__name__).warning(
            "%s: begun with %s %s, going on with %s: later rows may round otherwise",
            folder,
            key,
            old,
            new,
        )


def _changes(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted key, old, new) of every leaf that differs; items of a list go by their ``name``."""
    if _named(old) and _named(new):
        old, new = ({item["name"]: item for item in items} for items in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            found += _changes(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        return found
    return [] if old == new else [(prefix, old, new)]


def _named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, dict) and "name" in v for v in value)
