"""Refuse to go on with work whose settings, models or inputs have changed, and name the change."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leyden.errors import ConfigError, ConsistencyError, LeydenError, StoreError
from leyden.provenance.records import ANY_ROLE, Intent

NOTHING = "nothing"


def check_drift(folder: Path, begun: Intent, now: Intent, *, hint: str) -> None:
    """Raise where the artifact in ``folder`` was ``begun`` from something else than ``now``.

    The first change is named: a setting (ConfigError), a model (ConsistencyError) or an input
    (StoreError).
    """
    if begun.digest == now.digest:
        return
    raise (
        _changed_setting(folder, begun, now, hint)
        or _changed_model(folder, begun, now, hint)
        or _changed_input(folder, begun, now, hint)
        or StoreError(f"{folder}: made from other models than the recipe names now", hint=hint)
    )


def _changed_setting(folder: Path, begun: Intent, now: Intent, hint: str) -> LeydenError | None:
    for key, old, new in _changes(begun.settings, now.settings):
        return ConfigError(
            f"{folder}: made with {key} = {old!r}, and the recipe now says {new!r}", hint=hint
        )
    return None


def _changed_model(folder: Path, begun: Intent, now: Intent, hint: str) -> LeydenError | None:
    for role, identity in now.models.items():
        before = begun.models.get(role)
        if before is not None and before.digest != identity.digest:
            parts = ", ".join(before.differences(identity))
            return ConsistencyError(
                f"{folder}: made with the {role} {before.digest[:12]}, which is now "
                f"{identity.digest[:12]}: its {parts} changed",
                hint=hint,
            )
    return None


def _changed_input(folder: Path, begun: Intent, now: Intent, hint: str) -> LeydenError | None:
    for name in sorted(begun.inputs.keys() | now.inputs.keys()):
        old, new = begun.inputs.get(name, NOTHING), now.inputs.get(name, NOTHING)
        if old != new:
            return StoreError(
                f"{folder}: made from {name} {old[:12]}, which is now {new[:12]}", hint=hint
            )
    return None


def check_dtype(folder: Path, begun: Intent, now: Intent) -> None:
    """Raise ConfigError where work was begun in another dtype than it would be finished in."""
    for role, key, old, new in _changed_numerics(begun, now):
        if key == "dtype":
            raise ConfigError(
                f"{folder}: begun with execution.dtype = {old!r} for the {role}, and now it is "
                f"{new!r}",
                hint=f"undo the change, or `leyden run RECIPE --redo {now.stage}`",
            )


def warn_of_numerics(folder: Path, begun: Intent, now: Intent) -> None:
    """Warn of every other change of rounding since the work was begun."""
    for role, key, old, new in _changed_numerics(begun, now):
        logging.getLogger(__name__).warning(
            "%s: begun with %s %s for the %s, going on with %s: later rows may round otherwise",
            folder,
            key,
            old,
            role,
            new,
        )


def _changed_numerics(begun: Intent, now: Intent) -> Iterator[tuple[str, str, Any, Any]]:
    """(role, name, old, new) of each value that was noted then and differs now."""
    for role, values in now.numerics.items():
        old = begun.numerics.get(role, begun.numerics.get(ANY_ROLE, {}))
        for name in sorted(values.keys() & old.keys()):
            if old[name] != values[name]:
                yield role, name, old[name], values[name]


def _changes(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted key, old, new) of every leaf that differs. Items of a list go by their ``name``."""
    if _named(old) and _named(new):
        old, new = ({item["name"]: item for item in items} for items in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        leaves = []
        for key in sorted(old.keys() | new.keys()):
            leaves += _changes(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        return leaves
    return [] if old == new else [(prefix, old, new)]


def _named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, dict) and "name" in v for v in value)
