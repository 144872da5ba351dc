"""Do a run's jobs in order: skip finished ones, resume broken ones, refuse those that drifted."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from leyden.errors import ConfigError, StoreError, first_line
from leyden.evals.verdict import NOT_GRADED
from leyden.files import disk_errors, remove_temporaries
from leyden.inference.noted import noted_engines
from leyden.pipeline.drift import check_run, check_unchanged
from leyden.pipeline.hands import lead_or_help
from leyden.pipeline.kept import KEPT, found_or_made, keep
from leyden.pipeline.launch import launch_ranks
from leyden.pipeline.redo import check_redo, supersede, to_redo
from leyden.provenance.changes import warn_of_numerics
from leyden.provenance.records import (
    INTENT,
    Intent,
    Record,
    read_intent,
    reopen,
    write_intent,
    write_record,
)
from leyden.recipe.toml import write_recipe
from leyden.run.environment import environment_of, use_threads
from leyden.run.graph import Graph, resolve
from leyden.run.layout import CHECKPOINTS, GRADES, HEARTBEAT, RECIPE, REFRESH
from leyden.run.lineage import check_job, holds_work
from leyden.run.lock import lock
from leyden.run.run import Run
from leyden.run.stage import EVALUATE, Job
from leyden.store.writer import STORE, forget_store
from leyden.telemetry.heartbeat import Heartbeat
from leyden.telemetry.neighbours import Neighbours

Announce = Callable[[Job, str], None]
"""Told "moved to superseded/", "done before", "running" or "done" of a job."""


def quiet(job: Job, state: str) -> None:
    """Announce nothing."""


def run_recipe(
    run: Run, *, redo: Sequence[str] = (), until: str | None = None, announce: Announce = quiet
) -> None:
    """Make or continue a whole run, or the part of it up to the stage or job ``until``.

    ``redo`` names jobs, or stages for all their jobs, to make again with all made from them.
    """
    graph = resolve(run)
    jobs, again = jobs_until(graph, until), to_redo(graph, redo)
    _prepare_folder(run.root)
    with lock(run.root):
        if again:
            check_redo(graph, again)
            supersede(graph, again, announce)
            graph = resolve(run)
        check_run(graph, jobs)
        write_recipe(run.recipe, run.root / RECIPE)
        with _heartbeat(run, announce) as (alive, told):
            _do_jobs(resolve(alive), jobs, told)


def run_jobs(run: Run, jobs: Sequence[Job], *, announce: Announce = quiet) -> None:
    """Do ``jobs`` of an existing run in order. The artifacts that they read must be finished.

    The recipe in the run's folder becomes that of ``run``.
    """
    with lock(run.root):
        graph = resolve(run)
        jobs = [known for job in jobs for known in graph.named(str(job))]
        check_run(graph, jobs)
        write_recipe(run.recipe, run.root / RECIPE)
        with _heartbeat(run, announce) as (alive, told):
            _do_jobs(resolve(alive), jobs, told)


def work_on(run: Run, stage: str, *, announce: Announce = quiet) -> None:
    """Do the jobs of ``stage`` of an existing run together with whoever else does them.

    The jobs that they are made from must be finished. Raises ConfigError for a stage that one
    process does alone.
    """
    graph = resolve(run)
    jobs = graph.named(stage)
    if alone := [job for job in jobs if not graph.stage(job).helps]:
        shared = sorted({job.stage for job in graph.jobs if graph.stage(job).helps})
        raise ConfigError(
            f"{alone[0]}: cannot be divided among workers",
            hint=f"one of {', '.join(shared)} can; use `leyden {alone[0].stage} RUN` for this one",
        )
    for job in jobs:
        for parent in graph.parents(job):
            if not graph.finished(parent):
                raise StoreError(
                    f"{job}: is made from {parent}, which is not finished",
                    hint=f"`leyden run RECIPE --until {parent}` makes it",
                )
    for job in jobs:
        if not graph.finished(job):
            announce(job, "running")
            lead_or_help(run, job, _do_alive)
        announce(job, "done")


def _do_alive(run: Run, job: Job) -> None:
    """One job, led by a worker that tells others how far it is."""
    with _heartbeat(run, quiet) as (alive, told):
        told(job, "running")
        do_job(alive, job)


def _prepare_folder(root: Path) -> None:
    """Make the run's folder, or refuse a place that holds something else."""
    if root.exists() and not root.is_dir():
        raise StoreError(f"{root}: is a file, not a folder", hint="give a folder with --out")
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        ours = all(path.name.startswith(".") for path in root.iterdir())  # the lock, temporaries
        if not ours and not (root / RECIPE).exists():
            raise StoreError(
                f"{root}: is not empty and not a run folder",
                hint="give a new folder with --out",
            )


def jobs_until(graph: Graph, until: str | None) -> list[Job]:
    """All jobs, or those up to the last one of the stage (or job) ``until``."""
    if until is None:
        return list(graph.jobs)
    return list(graph.jobs[: 1 + max(graph.jobs.index(job) for job in graph.named(until))])


def settled(record: Record | None) -> bool:
    """Whether a job is finished for good: no sample waits for the machine to grade it."""
    return record is not None and not record.counts.get(NOT_GRADED)


@contextmanager
def _heartbeat(run: Run, announce: Announce) -> Iterator[tuple[Run, Announce]]:
    """The run and ``announce`` that also tell the run's file of a heartbeat."""
    heart = Heartbeat(run.root / HEARTBEAT, run.progress)
    remove_temporaries(run.root)

    def told(job: Job, state: str) -> None:
        if state == "running":
            heart.begin(str(job))
        announce(job, state)

    try:
        yield replace(run, progress=heart), told
    except BaseException as error:
        heart.fail("interrupted" if isinstance(error, KeyboardInterrupt) else first_line(error))
        raise
    heart.stop()


def _do_jobs(graph: Graph, jobs: Sequence[Job], announce: Announce) -> None:
    for job in jobs:
        if graph.finished(job) and not settled(graph.record(job)):
            check_job(graph, job)
            reopen(graph.folder(job))  # its samples stay, and what was graded is in the cache
            graph = resolve(graph.run)
        if graph.finished(job):
            check_job(graph, job)
            _tidy(graph.folder(job))
            announce(job, "done before")
            continue
        announce(job, "running")
        lead_or_help(graph.run, job, do_job)
        graph = resolve(graph.run)
        assert graph.finished(job), "a job that ends without an error leaves its record"
        announce(job, "done")


def do_job(run: Run, job: Job) -> None:
    """One job, from intent to record. Training on several ranks runs in processes of its own."""
    graph = resolve(run)  # models are identified as they are now, however long the last job took
    check_job(graph, job)
    intent, folder, stage = graph.intent(job), graph.folder(job), graph.stage(job)
    stage.check(graph, intent)
    if not holds_work(folder):
        _clear(folder)
    begun = read_intent(folder)
    if begun is None:
        write_intent(folder, intent)
    else:
        warn_of_numerics(folder, begun, intent)
    if stage.trains and run.recipe.execution.ranks > 1:
        launch_ranks(run, job)
    else:
        neighbours, home = Neighbours(), _kept(run, job)
        record = found_or_made(home, intent, folder, lambda: call_stage(graph, intent))
        finish(graph, record, neighbours)
        if home:
            keep(Path(home), folder, resolve(run).require(job))


def _kept(run: Run, job: Job) -> str | None:
    """The folder in which finished evaluations are kept, where ``job`` is one."""
    return run.recipe.evaluate.keep if job.stage == EVALUATE else None


def _clear(folder: Path) -> None:
    """Forget an attempt that made nothing. Whatever else is in the job's folder stays."""
    with disk_errors(folder):
        (folder / INTENT).unlink(missing_ok=True)
        for header in list(folder.glob(f"**/{STORE}")):
            forget_store(header.parent)


def call_stage(graph: Graph, intent: Intent) -> Record:
    """Make the artifact of ``intent`` in this process."""
    use_threads(graph.run.recipe.execution)
    return graph.stage(Job.parse(intent.stage)).function()(graph, intent)


def finish(graph: Graph, record: Record, neighbours: Neighbours) -> None:
    """Write the record, unless a model changed while the job was running; then tidy up."""
    job = Job.parse(record.intent.stage)
    check_unchanged(graph, job)
    if KEPT in record.environment:
        write_record(graph.folder(job), record)
        return
    environment = environment_of(graph.run.recipe.execution) | neighbours.facts()
    if engines := noted_engines(graph.folder(job)):
        environment["engines"] = engines
    write_record(graph.folder(job), replace(record, environment=environment))
    _tidy(graph.folder(job))


def _tidy(folder: Path) -> None:
    """Remove resume points of a finished job, and temporary files that a killed process left."""
    for name in (CHECKPOINTS, REFRESH):
        shutil.rmtree(folder / name, ignore_errors=True)
    for place in (folder, folder / GRADES):
        remove_temporaries(place)
