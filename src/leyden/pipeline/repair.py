"""Make the damaged parts of a run's stores and results again, and nothing else."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from leyden.errors import ConsistencyError, LeydenError, StoreError
from leyden.evals.results import read_results
from leyden.files import disk_errors
from leyden.pipeline.pipeline import run_jobs
from leyden.pipeline.redo import next_superseded
from leyden.pipeline.verify import changed_grades, stores_behind
from leyden.provenance.identity import hashed_afresh
from leyden.provenance.records import RECORD, Record
from leyden.run.graph import Graph, resolve
from leyden.run.layout import results_file
from leyden.run.lock import lock
from leyden.run.run import Run
from leyden.run.stage import Artifact, Job
from leyden.store.plan import Unit, read_plan
from leyden.store.reader import open_store
from leyden.store.unit import SHARDS, commit_path, open_committed
from leyden.store.writer import SEALED, STORE, read_header

REPAIRED = (Artifact.COMPLETIONS, Artifact.SCORES, Artifact.RESULTS)


@dataclass(frozen=True)
class Damage:
    """The damaged parts of a job's artifact: units by store, and other files.

    A store without damaged units has a damaged seal.
    """

    stores: Mapping[Path, list[Unit]]
    files: list[Path]

    def names(self, folder: Path) -> str:
        """All parts in one line, named from the artifact's ``folder``."""
        parts = []
        for store, units in self.stores.items():
            where = f"{store.relative_to(folder)}: " if store != folder else ""
            names = ", ".join(unit.name for unit in units)
            parts.append(f"{where}units {names or 'none, the seal alone is damaged'}")
        return "; ".join([*parts, *(str(path.relative_to(folder)) for path in self.files)])


def repair_run(run: Run) -> Iterator[str]:
    """Make damaged units of all stores again, and damaged grades and results; a sentence per job.

    Damaged files move to ``superseded/``. Units are functions of their seeds and models, so on the
    same machine they come out as they were. Raises ConsistencyError where one does not, since
    everything made from the store would then have to be made again.
    """
    graph, failed = resolve(run), []
    for job in graph.jobs:
        try:
            if (damage := _damage(graph, job)) is None:
                continue
            yield _repair(graph, job, damage)
        except LeydenError as error:  # the other jobs are repaired all the same
            failed.append(error)
        graph = resolve(run)
    if failed:
        raise failed[0]


def _repair(graph: Graph, job: Job, damage: Damage) -> str:
    run, before = graph.run, graph.require(job).fingerprint
    with lock(run.root):
        _put_aside(graph, job, damage)
    run_jobs(run, [job])
    names = damage.names(graph.folder(job))
    if resolve(run).require(job).fingerprint != before:
        raise ConsistencyError(
            f"{graph.folder(job)}: {names}: made again, and came out otherwise than before, as "
            "on another machine or version",
            hint=f"put the files back from superseded/, or `leyden run RECIPE --redo {job}`",
        )
    return f"{job}: made again, to the same bytes: {names}"


def _damage(graph: Graph, job: Job) -> Damage | None:
    """Everything of a finished job's artifact that is not what was recorded; None where it is whole
    or of a kind that is not repaired."""
    record = graph.record(job)
    if graph.stage(job).artifact not in REPAIRED or record is None:
        return None
    folder = graph.folder(job)
    with hashed_afresh():
        results = graph.stage(job).artifact is Artifact.RESULTS
        own: tuple[dict[Path, str | None], list[Path]] = ({folder: record.fingerprint}, [])
        stores, files = _parts_of_results(folder) if results else own
        units = {place: _damaged_units(place, stores[place], record) for place in stores}
    stores_at_fault = {place: found for place, found in units.items() if found is not None}
    return Damage(stores_at_fault, files) if stores_at_fault or files else None


def _parts_of_results(folder: Path) -> tuple[dict[Path, str | None], list[Path]]:
    """The stores behind an evaluation with their fingerprints, and its damaged files.

    Damaged results name no stores, so those in the folder are taken as they are.
    """
    try:
        results = read_results(folder)
    except StoreError:
        places = sorted(path.parent for path in folder.rglob(STORE))
        return dict.fromkeys(places), [results_file(folder)]
    behind = stores_behind(results)
    return {folder / name: behind[name] for name in behind}, changed_grades(folder, results)


def _damaged_units(folder: Path, expected: str | None, record: Record) -> list[Unit] | None:
    """The units that are not what was committed; None where the whole store is in order."""
    units = read_plan(folder, read_header(folder)["plan"])
    damaged = [unit for unit in units if not _sound(folder, unit)]
    if damaged:
        return damaged
    try:
        open_store(folder, expected=expected, origin=record.intent.digest)
    except StoreError:
        return []
    return None


def _sound(folder: Path, unit: Unit) -> bool:
    try:
        open_committed(folder, unit)
    except StoreError:
        return False
    return True


def _put_aside(graph: Graph, job: Job, damage: Damage) -> None:
    """Move the damaged files, the seals above them and the record to ``superseded/``."""
    folder = graph.folder(job)
    aside = next_superseded(graph.run.root) / str(job)
    paths = [folder / RECORD, *damage.files]
    for store, units in damage.stores.items():
        paths += [store / SEALED, *(commit_path(store, unit.name) for unit in units)]
        paths += [path for unit in units for path in store.glob(f"{SHARDS}/{unit.name}-*.arrow")]
    with disk_errors(folder):
        for path in paths:
            if path.exists():
                target = aside / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, target)
