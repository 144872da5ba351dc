"""Many processes on one job. One of them leads: it begins the job, seals its stores, writes its
record. The others help, and lead if the leader ends before that.

They may be started by the leader (``execution.workers``), by a Ray cluster, or by anyone who sees
the run's folder (``leyden work``). What they do is divided by leases on units in the stores.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from leyden.distributed.parent import end_child, with_parent
from leyden.errors import StoreError
from leyden.inference.leader import Leader
from leyden.pipeline.ray_hands import ray_helpers
from leyden.provenance.changes import check_drift
from leyden.provenance.records import read_intent
from leyden.run.environment import use_threads
from leyden.run.graph import resolve
from leyden.run.lock import job_lock
from leyden.run.run import Run
from leyden.run.stage import Job

HAND = "leyden.pipeline.hand"
STOP_SECONDS = 20


def lead_or_help(run: Run, job: Job, lead: Callable[[Run, Job], None]) -> None:
    """Have ``job`` finished: by this process with ``lead``, or by another with its help."""
    if not resolve(run).stage(job).helps:
        lead(run, job)
        return
    while True:
        with job_lock(run.root, job) as ours:
            if ours:
                if not resolve(run).finished(job):
                    with helpers(run, job):
                        lead(run, job)
                return
        help_with(run, job)
        Leader(run.root, job).wait_for(lambda: None)


def help_with(run: Run, job: Job) -> None:
    """Do units of a job that another process leads, until none is left or it has gone.

    Raises what the stage would, and where this process sees another recipe, model or input.
    """
    leader = Leader(run.root, job)
    graph = resolve(run)
    begun = leader.wait_for(lambda: read_intent(graph.folder(job)))
    if begun is None:
        return
    now = graph.intent(job)
    hint = "start every worker on the same folder, with the same models and version of leyden"
    check_drift(graph.folder(job), begun, now, hint=hint)
    use_threads(run.recipe.execution)
    graph.stage(job).helper()(graph, begun, leader)


def helpers(run: Run, job: Job) -> AbstractContextManager[None]:
    """Start those that the recipe asks for beside this process; they end with the context."""
    execution = run.recipe.execution
    if execution.cluster == "ray":
        return ray_helpers(run, job)
    return _processes(run, job, execution.workers - 1)


@contextmanager
def _processes(run: Run, job: Job, count: int) -> Iterator[None]:
    command = [sys.executable, "-m", HAND, str(run.root.absolute()), str(job)]
    # All of them first: an error about the second must not leave the first behind.
    environments = [with_parent() | _devices(run, number) for number in range(1, count + 1)]
    started = [subprocess.Popen(command, start_new_session=True, env=e) for e in environments]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            end_child(process, STOP_SECONDS)


def _devices(run: Run, number: int) -> dict[str, str]:
    """The devices of worker ``number``, as the environment that shows it no others. The first
    worker is the leader, which uses the first devices."""
    each, visible = run.recipe.execution.devices_per_worker, os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(_gpus())]
    if not names or run.recipe.execution.device == "cpu":
        return {}
    mine = names[number * each : (number + 1) * each]
    if len(mine) < each:
        raise StoreError(
            f"execution.workers = {run.recipe.execution.workers} with {each} devices each, and "
            f"this machine shows {len(names)}",
            hint="lower execution.workers or execution.devices_per_worker",
        )
    return {"CUDA_VISIBLE_DEVICES": ",".join(mine)}


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
