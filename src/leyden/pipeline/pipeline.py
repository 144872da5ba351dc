"""Do a run's jobs in order: skip what is done, resume what is not, refuse what drifted."""

import fcntl
import importlib.metadata
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from leyden.errors import EngineError, StoreError
from leyden.files import disk_errors, remove_temporaries
from leyden.pipeline.drift import (
    check_job,
    check_kept,
    check_live_teacher,
    check_ready,
    check_rendering,
    check_run,
    check_unchanged,
    holds_work,
    teacher_consistency,
)
from leyden.provenance.records import Intent, Record, read_intent, write_intent, write_record
from leyden.recipe.schema import Execution
from leyden.recipe.toml import write_recipe
from leyden.run.run import (
    DISTILL,
    EVALUATE,
    PROBLEMS,
    PROMPTS,
    RECIPE,
    ROLLOUT,
    SCORE,
    SFT,
    TEACH,
    Run,
)

SUPERSEDED = "superseded"
PACKAGES = ("leyden", "torch", "transformers", "pyarrow", "numpy")


def run_recipe(
    run: Run,
    *,
    redo: Sequence[str] = (),
    until: str | None = None,
    announce: Callable[[str, str], None],
) -> None:
    """Make or continue a whole run, or the part of it up to the stage or job ``until``.

    ``redo`` names jobs, or stages for all their jobs, to make again with all made from them.
    ``announce(job, state)`` is told "moved to superseded/", "done before", "running" and "done".
    """
    _prepare_folder(run.root)
    with lock(run.root) as held:
        if redo:
            _check_redo(run, run.descendants(*redo))
            _supersede(run, run.descendants(*redo), announce)
        jobs = jobs_until(run, until)
        check_run(run, jobs)
        write_recipe(run.recipe, run.root / RECIPE)
        _do_jobs(run, jobs, announce, held)


def _prepare_folder(root: Path) -> None:
    """Make the run's folder, or refuse a place that holds something else."""
    if root.exists() and not root.is_dir():
        raise StoreError(f"{root}: is a file, not a folder", hint="give a folder with --out")
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        own = (path.name.startswith(".") for path in root.iterdir())  # the lock, temporaries
        if not all(own) and not (root / RECIPE).exists():
            raise StoreError(
                f"{root}: is not empty and not a run folder",
                hint="give a new folder with --out",
            )


def jobs_until(run: Run, until: str | None) -> list[str]:
    """All jobs, or those up to the last one of the stage (or job) ``until``."""
    jobs = run.jobs()
    if until is None:
        return jobs
    return jobs[: 1 + max(i for i, job in enumerate(jobs) if until in (job, job.partition("/")[0]))]


def run_jobs(run: Run, jobs: list[str], *, announce: Callable[[str, str], None]) -> None:
    """Do ``jobs`` of an existing run in order; what they read must be finished."""
    with lock(run.root) as held:
        check_run(run, jobs)
        _do_jobs(run, jobs, announce, held)


def _do_jobs(run: Run, jobs: list[str], announce: Callable[[str, str], None], held: int) -> None:
    for job in jobs:
        if run.record(job) is not None:
            check_job(run, job)
            _tidy(run.folder(job))
            announce(job, "done before")
            continue
        announce(job, "running")
        do_job(run, job, held=held)
        announce(job, "done")


def do_job(run: Run, job: str, *, held: int | None = None) -> None:
    """One job, from intent to record; training over several ranks runs in processes of its own.

    ``held`` is the descriptor of the run's lock, which those processes keep open.
    """
    run.identities.clear()
    check_job(run, job)
    intent, folder = run.intent(job), run.folder(job)
    if job == TEACH:
        check_rendering(run)
    if job.startswith(DISTILL):
        check_live_teacher(run, intent)
    consistency = teacher_consistency(run) if job == SCORE else ""
    if not holds_work(folder):  # what an attempt left that made nothing
        with disk_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)
    if read_intent(folder) is None:
        write_intent(folder, intent)
    stage = job.partition("/")[0]
    if stage in (SFT, DISTILL) and run.recipe.execution.ranks > 1:
        _launch_ranks(run, job, held)
        return
    record = stage_function(stage)(run, intent)
    check_unchanged(run, job)
    finish(run, replace(record, teacher_consistency=consistency))


def finish(run: Run, record: Record) -> None:
    """Write the record, and drop the resume points that nobody will resume from."""
    folder = run.folder(record.intent.stage)
    write_record(folder, replace(record, environment=environment(run)))
    _tidy(folder)


def _tidy(folder: Path) -> None:
    """What a finished job does not need any more, or a killed process left beside it."""
    for name in ("checkpoints", "refresh"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for place in (folder, folder / "grades"):
        remove_temporaries(place)


def stage_function(stage: str) -> Callable[[Run, Intent], Record]:
    """The stage's function; imported here, so that nothing else loads torch."""
    from leyden.stages.distill import run_distill
    from leyden.stages.evaluate import run_evaluate
    from leyden.stages.prompts import run_problems, run_prompts
    from leyden.stages.rollout import run_rollout
    from leyden.stages.score import run_score
    from leyden.stages.sft import run_sft
    from leyden.stages.teach import run_teach
    from leyden.train.save import use_threads

    def with_threads(run: Run, intent: Intent) -> Record:
        use_threads(run.recipe.execution)
        return functions[stage](run, intent)

    functions = {
        PROMPTS: run_prompts,
        PROBLEMS: run_problems,
        TEACH: run_teach,
        SFT: run_sft,
        ROLLOUT: run_rollout,
        SCORE: run_score,
        DISTILL: run_distill,
        EVALUATE: run_evaluate,
    }
    return with_threads


def _launch_ranks(run: Run, job: str, held: int | None) -> None:
    """Run ``leyden.pipeline.rank`` once per rank under torchrun; they hold the lock if we die."""
    ranks = str(run.recipe.execution.ranks)
    launcher = [sys.executable, "-m", "leyden.distributed.torchrun", "--standalone"]
    command = [
        *launcher,
        "--nproc-per-node",
        ranks,
        "-m",
        "leyden.pipeline.rank",
        str(run.root),
        job,
    ]
    keep = () if held is None else (held,)
    code = subprocess.run(command, check=False, pass_fds=keep).returncode
    if code != 0:
        raise EngineError(
            f"{job}: a training process ended with code {code}",
            hint="its error is above; run the same command again to resume",
        )


def planned(
    run: Run, *, redo: Sequence[str] = (), until: str | None = None
) -> list[tuple[str, str]]:
    """(job, "do" or "skip: done") for what `run` would do now; checks as it would."""
    again = run.descendants(*redo)
    _check_redo(run, again)
    jobs = jobs_until(run, until)
    todo = [job for job in jobs if job in again or run.record(job) is None]
    check_ready(run, todo)
    return [(job, "do" if job in todo else "skip: done") for job in jobs]


def _check_redo(run: Run, again: Sequence[str]) -> None:
    """What is not made ``again`` must not have drifted, and what is must be possible to make."""
    check_kept(run, [job for job in run.jobs() if job not in again])
    check_ready(run, list(again))


def _supersede(run: Run, again: Sequence[str], announce: Callable[[str, str], None]) -> None:
    """Move the artifacts of the jobs ``again`` to ``superseded/``; nothing is deleted."""
    home = run.root / SUPERSEDED
    number = 1 + sum(1 for _ in home.glob("*")) if home.exists() else 1
    with disk_errors(run.root):
        for name in again:
            if run.folder(name).exists():
                target = home / f"{number:03d}" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(run.folder(name), target)
                announce(name, "moved to superseded/")


@contextmanager
def lock(root: Path) -> Iterator[int]:
    """One process at a time works on a run's jobs; yields the lock's file descriptor."""
    with disk_errors(root), open(root / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"{root}: another leyden process works on this run",
                hint="wait for it, or stop it; the run resumes from what is committed",
            ) from error
        yield file.fileno()


def environment(run: Run) -> dict[str, object]:
    return environment_of(run.recipe.execution)


def environment_of(execution: Execution) -> dict[str, object]:
    """What the record tells people about the machine; never compared."""
    import torch

    from leyden.models.load import pick_device

    return {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.platform(),
        "device": str(pick_device(execution.device)),
        "dtype": execution.dtype,
        "threads": torch.get_num_threads(),
        "ranks": execution.ranks,
    }
