"""One rank of a training job, started by ``launch.py`` under torchrun: ``rank.py RUN JOB``."""

import os
import sys
from pathlib import Path

from leyden.distributed.ranks import join
from leyden.errors import LeydenError
from leyden.pipeline.pipeline import call_stage, finish
from leyden.run.graph import resolve
from leyden.run.run import Run
from leyden.run.stage import Job


def main() -> int:
    """Exit code 0, or 1 with a LeydenError's sentence, which the leading rank alone prints."""
    try:
        work(Run.open(Path(sys.argv[1])), Job.parse(sys.argv[2]))
    except LeydenError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        return 1
    return 0


def work(run: Run, job: Job) -> None:
    """Do this rank's part of a training job. The leading rank also writes the record."""
    graph = resolve(run)
    record = call_stage(graph, graph.intent(job))
    if join(run.recipe.execution.device).leads:
        finish(graph, record)


if __name__ == "__main__":
    sys.exit(main())
