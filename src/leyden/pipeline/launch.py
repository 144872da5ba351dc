"""Start a training job in several processes, one per rank, and wait for them."""

import subprocess
import sys

from leyden.errors import EngineError
from leyden.run.run import Run
from leyden.run.stage import Job

TORCHRUN, RANK = "leyden.distributed.torchrun", "leyden.pipeline.rank"


def launch_ranks(run: Run, job: Job, *, held: int | None) -> None:
    """Run ``pipeline/rank.py`` once per rank under torchrun.

    ``held`` is the descriptor of the run's lock. The ranks inherit it, so that the run stays
    locked while they work, even if we are killed. Raises EngineError where a rank failed.
    """
    ranks = ["--standalone", "--nproc-per-node", str(run.recipe.execution.ranks)]
    command = [sys.executable, "-m", TORCHRUN, *ranks, "-m", RANK, str(run.root), str(job)]
    inherited = () if held is None or sys.platform == "win32" else (held,)
    code = subprocess.run(command, check=False, pass_fds=inherited).returncode
    if code != 0:
        raise EngineError(
            f"{job}: a training process ended with code {code}",
            hint="its error is above; run the same command again to resume",
        )
