"""Make jobs again: what they made, and all made from it, is moved aside first."""

import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from leyden.errors import StoreError
from leyden.files import disk_errors
from leyden.pipeline.drift import check_ready, check_whole
from leyden.run.graph import Graph
from leyden.run.layout import SUPERSEDED
from leyden.run.lineage import check_kept
from leyden.run.lock import is_led
from leyden.run.stage import Job
from leyden.store.claim import are_held

MOVED = "moved to superseded/"


def to_redo(graph: Graph, names: Sequence[str]) -> list[Job]:
    """The jobs that ``names`` mean, and every job made from them."""
    return graph.descendants([job for name in names for job in graph.named(name)])


def check_redo(graph: Graph, again: Collection[Job]) -> None:
    """Refuse where a job that stays has drifted, or one to make ``again`` cannot be made."""
    from leyden.pipeline.foresight import read_inputs

    if led := next((job for job in again if _is_worked_on(graph, job)), None):
        raise StoreError(
            f"{graph.folder(led)}: `leyden work` makes it at this moment",
            hint="stop its workers, or wait for them",
        )
    check_kept(graph, [job for job in graph.jobs if job not in again])
    check_ready(graph, again)
    for _ in read_inputs(graph, again, {}):
        pass
    stay = {parent for job in again for parent in graph.parents(job) if parent not in again}
    for job in stay:
        if graph.finished(job):
            check_whole(graph, job)


def _is_worked_on(graph: Graph, job: Job) -> bool:
    return is_led(graph.run.root, job) or are_held(graph.folder(job))


def next_superseded(root: Path) -> Path:
    """A folder of ``superseded/`` that is not used yet."""
    home = root / SUPERSEDED
    number = 1 + max((int(p.name) for p in home.glob("*") if p.name.isdigit()), default=0)
    return home / f"{number:03d}"


def supersede(graph: Graph, again: Sequence[Job], announce: Callable[[Job, str], None]) -> None:
    """Move the artifacts of the jobs ``again`` to ``superseded/``. Nothing is deleted."""
    home = next_superseded(graph.run.root)
    with disk_errors(graph.run.root):
        for job in again:
            if graph.folder(job).exists():
                target = home / str(job)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(graph.folder(job), target)
                announce(job, MOVED)
