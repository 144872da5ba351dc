"""Refuse to go on where a run is no longer what its recipe asks for. No model is loaded."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from leyden.engines.open import open_engine
from leyden.errors import ConfigError, ConsistencyError, StoreError
from leyden.evals.results import read_results
from leyden.provenance.changes import check_drift, check_dtype
from leyden.provenance.records import INTENT
from leyden.run.artifacts import open_artifact, open_prompts
from leyden.run.graph import Graph, resolve
from leyden.run.stage import ROLLOUT, SCORE, TEACH, Artifact, Job
from leyden.run.teachers import teacher_consistency

# A unit committed, or a resume point reached: what an unfinished job holds that is worth keeping.
WORK = ("**/commits/*.json", "checkpoints/*/state.json")


def check_run(graph: Graph, jobs: Collection[Job]) -> None:
    """Refuse drift of any job that was begun, missing models of ``jobs``, and a second teacher."""
    check_kept(graph, graph.jobs)
    check_ready(graph, [job for job in jobs if not graph.finished(job)])


def check_kept(graph: Graph, jobs: Iterable[Job]) -> None:
    """Refuse where a job of ``jobs`` was made or begun from something else than is asked for."""
    for job in jobs:
        # Without its parents a job cannot be compared; the parents themselves are reported.
        if all(graph.finished(parent) for parent in graph.parents(job)):
            check_job(graph, job)


def check_ready(graph: Graph, jobs: Collection[Job]) -> None:
    """Refuse where a model that ``jobs`` will use is missing, or two are not one teacher, or ranks
    cannot open an engine."""
    for job in jobs:
        for role in graph.outside_models(job):
            graph.identity(role)
        _check_ranks(graph, job)
        if not any(p in jobs or not graph.finished(p) for p in graph.parents(job)):
            graph.stage(job).check(graph, graph.intent(job))
    if SCORE in jobs:
        teacher_consistency(graph, keep_completions=TEACH not in jobs)


def _check_ranks(graph: Graph, job: Job) -> None:
    """Ranks are processes of their own, which a function of this process does not reach."""
    run, stage = graph.run, graph.stage(job)
    ranks, own_engine = run.recipe.execution.ranks, run.open_engine is not open_engine
    if stage.trains and ranks > 1 and own_engine and stage.engines(run.recipe, job.name):
        raise ConfigError(
            f"{job}: execution.ranks = {ranks}, and its engine is opened by a function of this "
            "process",
            hint="set execution.ranks = 1",
        )


def check_job(graph: Graph, job: Job) -> None:
    """Refuse where ``job`` was begun from something else than recipe and parents are now."""
    folder, record, begun = graph.folder(job), graph.record(job), graph.begun(job)
    unfinished = record is None and holds_work(folder)
    if record is None and not unfinished:
        return
    if begun is None or (record is not None and record.intent.digest != begun.digest):
        raise StoreError(
            f"{folder / INTENT}: missing, or it does not belong to the record beside it",
            hint=f"restore it from a copy, or `leyden run RECIPE --redo {job}`",
        )
    # A finished job needs its models no more, so one that is gone counts as what it was.
    now = graph.intent(job, finished=None if unfinished else begun)
    # Completions stay as they were written, also when the recipe now names another teacher. Whether
    # that one may score them is for the one-teacher rule.
    if graph.stage(job).survives_new_author and not unfinished and _own_teacher(graph):
        now = replace(now, models=begun.models)
    check_drift(folder, begun, now, hint=_redo_hint(graph, job))
    if unfinished:
        check_dtype(folder, begun, now)


def _own_teacher(graph: Graph) -> bool:
    """Whether ``models.teacher`` is also the model that writes the SFT data."""
    models = graph.run.recipe.models
    return not (models.sft_teacher or models.reference)


def _redo_hint(graph: Graph, job: Job) -> str:
    every = f" (or --redo {job.stage} for every {job.stage} job)" if job.name else ""
    again = ", ".join(map(str, graph.descendants([job])))
    return f"undo the change, or `leyden run RECIPE --redo {job}`{every} to make again: {again}"


def check_whole(graph: Graph, job: Job) -> None:
    """Raise a StoreError unless the finished artifact of ``job`` is the one that its record names.

    Its bytes are hashed; the values in them are not looked at.
    """
    match graph.stage(job).artifact:
        case Artifact.PROMPTS:
            open_prompts(graph, job)
        case Artifact.COMPLETIONS:
            open_artifact(graph, job)
        case Artifact.SCORES:  # read with the rollouts, row for row
            open_artifact(graph, job)
            open_artifact(graph, ROLLOUT)
        case Artifact.MODEL:
            graph.fingerprint(job)
        case Artifact.RESULTS:
            read_results(graph.folder(job))


def holds_work(folder: Path) -> bool:
    """Whether an unfinished job has made anything that starting again would waste."""
    return any(True for pattern in WORK for _ in folder.glob(pattern))


def check_unchanged(graph: Graph, job: Job) -> None:
    """Refuse where an outside model of ``job`` changed since its intent was written.

    The run is resolved anew, so that models are identified as they are now.
    """
    now = resolve(graph.run)
    begun = now.begun(job)
    assert begun is not None, "a job writes its intent first"
    for role, identity in begun.models.items():
        differ = identity.differences(now.identity(role))
        if differ:
            raise ConsistencyError(
                f"{graph.run.place(role)}: its {', '.join(differ)} changed while {job} was running",
                hint=f"restore it and `leyden run RECIPE --redo {job}`",
            )
