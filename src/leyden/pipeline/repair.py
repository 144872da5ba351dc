"""Make damaged units of a run's stores again, each by itself."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from leyden.errors import ConsistencyError, StoreError
from leyden.files import disk_errors
from leyden.pipeline.lock import lock
from leyden.pipeline.pipeline import next_superseded, run_jobs
from leyden.provenance.identity import hashed_afresh
from leyden.provenance.records import RECORD, Record
from leyden.run.graph import Graph, resolve
from leyden.run.run import Run
from leyden.run.stage import Artifact, Job
from leyden.store.plan import Unit, read_plan
from leyden.store.reader import open_store
from leyden.store.unit import SHARDS, commit_path, open_committed
from leyden.store.writer import SEALED, read_header

STORES = (Artifact.COMPLETIONS, Artifact.SCORES)


def repair_run(run: Run) -> Iterator[str]:
    """Make the damaged units of teach, rollout and score again; a sentence per store.

    Damaged files move to ``superseded/``. Units are functions of their seeds and models, so on the
    same machine they come out as they were. Raises ConsistencyError where one does not, since
    everything made from the store would then have to be made again.
    """
    graph = resolve(run)
    for job in graph.jobs:
        record = graph.record(job)
        if graph.stage(job).artifact not in STORES or record is None:
            continue
        units = _damaged(graph, job, record)
        if units is None:
            continue
        names = ", ".join(unit.name for unit in units) or "none, the seal alone is damaged"
        with lock(run.root):
            _put_aside(graph, job, units)
        run_jobs(run, [job])
        graph = resolve(run)
        made = graph.require(job)
        if made.fingerprint != record.fingerprint:
            raise ConsistencyError(
                f"{graph.folder(job)}: units {names} were made again and came out otherwise than "
                "before, as on another machine or version",
                hint=f"put the files back from superseded/, or `leyden run RECIPE --redo {job}`",
            )
        yield f"{job}: made again, to the same bytes: units {names}"


def _damaged(graph: Graph, job: Job, record: Record) -> list[Unit] | None:
    """The units that are not what was committed; None where the whole store is in order."""
    folder = graph.folder(job)
    with hashed_afresh():
        units = read_plan(folder, read_header(folder)["plan"])
        damaged = [unit for unit in units if not _sound(folder, unit)]
        if damaged:
            return damaged
        try:
            open_store(folder, expected=record.fingerprint, origin=record.intent.digest)
        except StoreError:
            return []
    return None


def _sound(folder: Path, unit: Unit) -> bool:
    try:
        open_committed(folder, unit)
    except StoreError:
        return False
    return True


def _put_aside(graph: Graph, job: Job, units: list[Unit]) -> None:
    """Move the files of ``units``, the seal and the record to ``superseded/``."""
    folder = graph.folder(job)
    aside = next_superseded(graph.run.root) / str(job)
    shards = [path for unit in units for path in folder.glob(f"{SHARDS}/{unit.name}-*.arrow")]
    commits = [commit_path(folder, unit.name) for unit in units]
    with disk_errors(folder):
        for path in (folder / RECORD, folder / SEALED, *commits, *shards):
            if path.exists():
                target = aside / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, target)
