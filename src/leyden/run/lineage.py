"""Whether jobs were made from what recipe, parents and models are now. No model is loaded."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from leyden.errors import StoreError
from leyden.provenance.changes import check_drift, check_dtype
from leyden.provenance.records import INTENT, require_file
from leyden.run.graph import Graph
from leyden.run.layout import METRICS
from leyden.run.stage import Job

# A unit committed, or a resume point reached: what an unfinished job holds that is worth keeping.
WORK = ("**/commits/*.json", "checkpoints/*/state.json")


def check_kept(graph: Graph, jobs: Iterable[Job]) -> None:
    """Refuse where a job of ``jobs`` was made or begun from something else than is asked for."""
    for job in jobs:
        # Without its parents a job cannot be compared; the parents themselves are reported.
        if all(graph.finished(parent) for parent in graph.parents(job)):
            check_job(graph, job)


def check_job(graph: Graph, job: Job) -> None:
    """Refuse where ``job`` was begun from something else than recipe and parents are now."""
    folder, record, begun = graph.folder(job), graph.record(job), graph.begun(job)
    unfinished = record is None and holds_work(folder)
    if record is None and not unfinished:
        return
    if begun is None or (record is not None and record.intent.digest != begun.digest):
        raise _without_intent(folder, job)
    # A finished job needs its models no more, so one that is gone counts as what it was.
    now = graph.intent(job, finished=None if unfinished else begun)
    # Completions stay as they were written, also when the recipe now names another teacher. Whether
    # that one may score them is for the one-teacher rule.
    if graph.stage(job).survives_new_author and not unfinished and _own_teacher(graph):
        now = replace(now, models=begun.models)
    check_drift(folder, begun, now, hint=_redo_hint(graph, job))
    if unfinished:
        check_dtype(folder, begun, now)


def check_recorded(graph: Graph, job: Job) -> None:
    """Refuse where records alone show that the finished ``job`` is not what the recipe asks for, or
    was not made from its parents.

    Of files only the metrics of training are read, so this is quick.
    """
    folder, begun, recipe = graph.folder(job), graph.begun(job), graph.run.recipe
    record = graph.require(job)
    if begun is None or record.intent.digest != begun.digest:
        raise _without_intent(folder, job)
    if begun.stage != str(job):
        raise StoreError(
            f"{folder}: holds what was made as {begun.stage}",
            hint=f"put {begun.stage} back, and `leyden run RECIPE --redo {job}`",
        )
    if recorded := record.facts.get("metrics"):
        require_file(folder / METRICS, recorded)
    made = {str(p): graph.require(p).fingerprint for p in graph.parents(job) if graph.finished(p)}
    settings = graph.stage(job).settings(recipe, job.name, record)
    now = replace(begun, settings=settings, inputs=begun.inputs | made)
    check_drift(folder, begun, now, hint=_redo_hint(graph, job))


def _without_intent(folder: Path, job: Job) -> StoreError:
    return StoreError(
        f"{folder / INTENT}: missing, or it does not belong to the record beside it",
        hint=f"restore it from a copy, or `leyden run RECIPE --redo {job}`",
    )


def _own_teacher(graph: Graph) -> bool:
    """Whether ``models.teacher`` is also the model that writes the SFT data."""
    models = graph.run.recipe.models
    return not (models.sft_teacher or models.reference)


def _redo_hint(graph: Graph, job: Job) -> str:
    every = f" (or --redo {job.stage} for every {job.stage} job)" if job.name else ""
    again = ", ".join(map(str, graph.descendants([job])))
    return f"undo the change, or `leyden run RECIPE --redo {job}`{every} to make again: {again}"


def holds_work(folder: Path) -> bool:
    """Whether an unfinished job has made anything that starting again would waste."""
    return any(True for pattern in WORK for _ in folder.glob(pattern))
