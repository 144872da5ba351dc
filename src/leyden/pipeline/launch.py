"""Start a training job in several processes, one per rank, and wait for them."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from leyden import errors
from leyden.distributed.parent import end_child, with_parent
from leyden.errors import EngineError, LeydenError
from leyden.run.lock import ranks_lock
from leyden.run.run import Run
from leyden.run.stage import Job

REPORTS = ".ranks-"  # of the folder in which ranks leave their errors
TORCHRUN, RANK = "leyden.distributed.torchrun", "leyden.pipeline.rank"
STOP_SECONDS = 40  # torchrun itself gives ranks 30 s before it kills them


def launch_ranks(run: Run, job: Job) -> None:
    """Run ``pipeline/rank.py`` once per rank under torchrun.

    The ranks read the recipe in the run's folder. Raises the error that a rank reports, or
    EngineError where one failed otherwise.
    """
    ranks = ["--standalone", "--nproc-per-node", str(run.recipe.execution.ranks)]
    for stale in run.root.glob(f"{REPORTS}*"):  # of a command that was killed
        shutil.rmtree(stale, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix=REPORTS, dir=run.root) as reports,
        ranks_lock(run.root) as held,
    ):
        command = [sys.executable, "-m", TORCHRUN, *ranks, "-m", RANK, str(run.root), str(job)]
        # In a session of their own, Ctrl-C reaches this process alone, which then stops them. They
        # inherit the lock, so that it is held from the first moment until the last of them ends.
        process = subprocess.Popen(
            [*command, reports],
            start_new_session=True,
            env=with_parent(),
            pass_fds=() if sys.platform == "win32" else (held.fileno(),),
        )
        try:
            code = process.wait()
        finally:
            end_child(process, STOP_SECONDS)  # and with torchrun every rank
        if code != 0:
            raise _failure(job, Path(reports), code)


def report_error(error: LeydenError, reports: Path, rank: int) -> None:
    """Leave a rank's error for the process that launched it."""
    content = {"kind": type(error).__name__, "sentence": str(error), "hint": error.hint}
    (reports / f"{rank:06d}.json").write_text(json.dumps(content), encoding="utf-8")


def _failure(job: Job, reports: Path, code: int) -> LeydenError:
    """The error of the lowest rank that reported one."""
    for path in sorted(reports.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        kind: type[LeydenError] = getattr(errors, content["kind"])
        return kind(f"rank {int(path.stem)}: {content['sentence']}", hint=content["hint"])
    return EngineError(
        f"{job}: a training process ended with code {code}",
        hint="its error is above; run the same command again to resume",
    )
