"""Do a run's jobs in order: skip what is done, resume what is not, refuse what drifted."""

import fcntl
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from leyden.errors import EngineError, StoreError
from leyden.files import disk_errors
from leyden.lineage import (
    Intent,
    Record,
    check_drift,
    check_one_teacher,
    read_intent,
    write_intent,
    write_record,
)
from leyden.recipe import write_recipe
from leyden.run import (
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


def check_run(run: Run) -> None:
    """Refuse before any model is loaded: drift of every begun job, then the one-teacher rule."""
    for role in ("teacher", "base"):
        run.identity(role)
    for job in run.jobs():
        if all(run.record(parent) is not None for parent in run.parents(job)):
            check_job(run, job)
    teacher_consistency(run)


def check_job(run: Run, job: str) -> None:
    """Refuse when ``job`` was begun from something else than the recipe and its parents are now."""
    begun = read_intent(run.folder(job))
    if begun is None:
        return
    wanted = run.intent(job)
    if job in (PROMPTS, TEACH) and run.record(job) is not None:
        # A finished answer keeps its author; whether the author may score is the one-teacher rule.
        wanted = replace(wanted, models=begun.models)
    check_drift(run.folder(job), wanted, redo=", ".join(run.descendants(job)))


def teacher_consistency(run: Run) -> str:
    """The one-teacher rule as it stands now; empty while no SFT data exists."""
    if run.recipe.models.reference:
        wrote, declared = run.identity("sft_teacher"), True
    else:
        answers = run.record(TEACH)
        if answers is None:
            return ""
        wrote, declared = answers.intent.models["sft_teacher"], False
    return check_one_teacher(
        wrote,
        run.identity("teacher"),
        allowed=run.recipe.score.allow_inconsistent_teacher,
        declared=declared,
    )


def run_jobs(run: Run, jobs: list[str], *, announce: Callable[[str, str], None]) -> None:
    """Do ``jobs`` in order. ``announce(job, state)`` is told "done before", "running" or "done"."""
    with lock(run.root):
        check_run(run)
        for job in jobs:
            if run.record(job) is not None:
                check_job(run, job)
                announce(job, "done before")
                continue
            announce(job, "running")
            do_job(run, job)
            announce(job, "done")


def do_job(run: Run, job: str) -> None:
    """One job, from intent to record; training over several ranks runs in processes of its own."""
    intent = run.intent(job)
    folder = run.folder(job)
    check_drift(folder, intent, redo=", ".join(run.descendants(job)))
    consistency = teacher_consistency(run) if job == SCORE else ""
    if read_intent(folder) is None:
        write_intent(folder, intent)
    stage = job.partition("/")[0]
    if stage in (SFT, DISTILL) and run.recipe.execution.ranks > 1:
        _launch_ranks(run, job)
        return
    finish(run, replace(stage_function(stage)(run, intent), teacher_consistency=consistency))


def finish(run: Run, record: Record) -> None:
    write_record(run.folder(record.intent.stage), replace(record, environment=environment(run)))


def stage_function(stage: str) -> Callable[[Run, Intent], Record]:
    """The stage's function; imported here, so that nothing else loads torch."""
    from leyden.stages.distill import run_distill
    from leyden.stages.evaluate import run_evaluate
    from leyden.stages.prompts import run_problems, run_prompts
    from leyden.stages.rollout import run_rollout
    from leyden.stages.score import run_score
    from leyden.stages.sft import run_sft
    from leyden.stages.teach import run_teach
    from leyden.train.artifact import use_threads

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


def _launch_ranks(run: Run, job: str) -> None:
    """Run ``leyden.worker`` once per rank under torchrun."""
    ranks = str(run.recipe.execution.ranks)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc-per-node", ranks, "-m", "leyden.worker", str(run.root), job]
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        raise EngineError(
            f"{job}: a training process ended with code {code}",
            hint="its error is above; run the same command again to resume",
        )


def prepare_run(run: Run) -> None:
    """Make the run folder, or check that the recipe fits what it holds; keep the recipe."""
    with disk_errors(run.root):
        run.root.mkdir(parents=True, exist_ok=True)
        if any(run.root.iterdir()) and not (run.root / RECIPE).exists():
            raise StoreError(
                f"{run.root}: is not empty and not a run folder",
                hint="give a new folder with --out",
            )
        check_run(run)
        write_recipe(run.recipe, run.root / RECIPE)


def supersede(run: Run, job: str) -> list[str]:
    """Move ``job`` and all made from it to ``superseded/``; nothing is deleted."""
    moved = [name for name in run.descendants(job) if run.folder(name).exists()]
    home = run.root / SUPERSEDED
    number = 1 + sum(1 for _ in home.glob("*")) if home.exists() else 1
    with disk_errors(run.root):
        for name in moved:
            target = home / f"{number:03d}" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(run.folder(name), target)
    return moved


@contextmanager
def lock(root: Path) -> Iterator[None]:
    """One process at a time works on a run's jobs."""
    with disk_errors(root), open(root / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"{root}: another leyden process works on this run",
                hint="wait for it, or stop it; the run resumes from what is committed",
            ) from error
        yield


def environment(run: Run) -> dict[str, object]:
    """What the record tells people about the machine; never compared."""
    return {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.platform(),
        "device": run.recipe.execution.device,
        "dtype": run.recipe.execution.dtype,
        "threads": run.recipe.execution.threads or os.cpu_count(),
        "ranks": run.recipe.execution.ranks,
    }
