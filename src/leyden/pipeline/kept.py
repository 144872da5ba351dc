"""Evaluations that several runs share: the teacher and the base do not change with the arms.

A kept evaluation is found by the digest of its intent, which covers model, problems, settings and
seed, and it is used only where its numerics are those that this run would use.
"""

import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from leyden.evals.results import read_results
from leyden.evals.verdict import NOT_GRADED
from leyden.files import TEMPORARY, disk_errors
from leyden.provenance.records import RECORD, Intent, Record, read_record

KEPT = "kept_from"


def find_kept(home: Path, intent: Intent, folder: Path) -> Record | None:
    """Copy the evaluation of ``intent`` into ``folder``; its record, or None where none is kept.

    It took this run no device-seconds. Raises StoreError where a kept one is damaged.
    """
    place = home / intent.digest
    record = read_record(place)
    if record is None or record.intent != intent:
        return None
    read_results(place)
    for path in place.iterdir():
        if path.name != RECORD and not path.name.startswith("."):
            _copy(path, folder / path.name)
    environment = record.environment | {KEPT: str(place)}
    return replace(record, device_seconds=0.0, environment=environment)


def keep(home: Path, folder: Path, record: Record) -> None:
    """Keep the finished evaluation in ``folder`` unless one is kept. Files are linked where the
    file system can, since none is ever rewritten."""
    place = home / record.intent.digest
    if record.counts.get(NOT_GRADED) or place.exists() or KEPT in record.environment:
        return
    with disk_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        aside = home / f"{TEMPORARY}{uuid.uuid4().hex[:12]}"
        try:
            shutil.copytree(folder, aside, copy_function=_linked, ignore=_hidden)
            aside.rename(place)
        except FileExistsError:  # another run was faster
            pass
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    with disk_errors(target):
        if source.is_dir():
            shutil.copytree(source, target, copy_function=_linked, dirs_exist_ok=True)
        elif not target.exists():
            _linked(str(source), str(target))


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _hidden(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(".")]


Make = Callable[[], Record]


def found_or_made(home: str | None, intent: Intent, folder: Path, make: Make) -> Record:
    """The record of an evaluation: of a kept one, or of the one that ``make`` makes."""
    kept = find_kept(Path(home), intent, folder) if home else None
    return make() if kept is None else kept
