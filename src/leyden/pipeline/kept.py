"""Evaluations that several runs share: the teacher and the base do not change with the arms.

A kept evaluation is found by the digest of its intent, which covers model, problems, settings and
seed, and it is used only where its numerics are those that this run would use.
"""

import logging
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from leyden.errors import StoreError
from leyden.evals.results import read_results
from leyden.evals.verdict import NOT_GRADED
from leyden.files import TEMPORARY, disk_errors, temporary_name
from leyden.provenance.records import RECORD, Intent, Record, read_record
from leyden.run.layout import DIVERGENCE, SAMPLES
from leyden.run.lineage import holds_work
from leyden.store.reader import open_store

KEPT = "kept_from"
BEGUN = ".kept"  # in a folder that a kept evaluation is being copied into


def find_kept(home: Path, intent: Intent, folder: Path) -> Record | None:
    """Link or copy the evaluation of ``intent`` into ``folder``; its record, or None where none is
    kept, or the one that is kept is damaged, or the folder holds work of its own.

    It took this run no device-seconds.
    """
    place = home / intent.digest
    try:
        record = read_record(place)
        if record is None or record.intent != intent:
            return None
        _check(place)
    except StoreError as error:
        _warn("%s is not used: %s", place, error)
        return None
    if holds_work(folder) and not (folder / BEGUN).exists():
        return None
    with disk_errors(folder):
        (folder / BEGUN).touch()
        for path in sorted(place.rglob("*")):
            within = path.relative_to(place)
            if path.is_file() and within.name != RECORD and within.parts[0][0] != ".":
                (folder / within).parent.mkdir(parents=True, exist_ok=True)
                _linked(str(path), str(folder / within))
        (folder / BEGUN).unlink()
    environment = record.environment | {KEPT: str(place)}
    return replace(record, device_seconds=0.0, environment=environment)


def _check(place: Path) -> None:
    """Raise StoreError unless results and stores are as they were kept."""
    results = read_results(place)
    for name, result in results.benchmarks.items():
        open_store(place / SAMPLES / name, expected=result.store)
    if results.divergence is not None:
        open_store(place / DIVERGENCE, expected=results.divergence.store)


def keep(home: Path, folder: Path, record: Record) -> None:
    """Keep the finished evaluation in ``folder`` unless one is kept. Files are linked where the
    file system can, since none is ever rewritten. What fails here is no failure of the run."""
    place = home / record.intent.digest
    if record.counts.get(NOT_GRADED) or place.exists() or KEPT in record.environment:
        return
    aside = home / f"{TEMPORARY}{uuid.uuid4().hex[:12]}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, aside, copy_function=_linked, ignore=_hidden)
        aside.rename(place)
    except OSError as error:
        if not place.exists():  # else another run was faster
            _warn("%s: the evaluation is not kept: %s", home, error.strerror or error)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _linked(source: str, target: str) -> None:
    """Give ``target`` the content of ``source``, whatever it was."""
    aside = temporary_name(Path(target))
    try:
        try:
            os.link(source, aside)
        except OSError:  # another file system
            shutil.copy2(source, aside)
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def _warn(*words: object) -> None:
    logging.getLogger(__name__).warning(*words)


def _hidden(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(".")]


Make = Callable[[], Record]


def found_or_made(home: str | None, intent: Intent, folder: Path, make: Make) -> Record:
    """The record of an evaluation: of a kept one, or of the one that ``make`` makes."""
    kept = find_kept(Path(home), intent, folder) if home else None
    return make() if kept is None else kept
