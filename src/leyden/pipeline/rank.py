"""One rank of a training job: ``rank.py RUN JOB REPORTS``, started by ``launch.py``."""

import os
import sys
from dataclasses import replace
from pathlib import Path

from leyden.distributed.parent import die_with_parent
from leyden.distributed.ranks import join
from leyden.errors import LeydenError, StoreError
from leyden.pipeline.launch import report_error
from leyden.pipeline.pipeline import call_stage, finish
from leyden.provenance.records import INTENT, Intent
from leyden.run.graph import Graph, resolve
from leyden.run.layout import HEARTBEAT
from leyden.run.lock import ranks_lock
from leyden.run.run import Run
from leyden.run.stage import Job
from leyden.telemetry.heartbeat import Heartbeat
from leyden.telemetry.neighbours import Neighbours


def main() -> int:
    """Exit code 0, or 1 with an error in the folder REPORTS."""
    die_with_parent()
    reports = Path(sys.argv[3])
    try:
        with ranks_lock(Path(sys.argv[1])):
            work(Run.open(Path(sys.argv[1])), Job.parse(sys.argv[2]))
    except LeydenError as error:
        report_error(error, reports, int(os.environ.get("RANK", "0")))
        return 1
    except Exception:
        # When one rank stops, the exchange fails in all others. They have nothing to add.
        if any(reports.iterdir()):
            return 1
        raise
    return 0


def work(run: Run, job: Job) -> None:
    """Do this rank's part of a training job. The leading rank also writes the record."""
    leads = join(run.recipe.execution.device).leads
    neighbours = Neighbours(os.getppid())  # the other ranks, of the same parent, are none
    if leads:
        heart = Heartbeat(run.root / HEARTBEAT, run.progress)
        heart.begin(str(job))
        run = replace(run, progress=heart)
    graph = resolve(run)
    record = call_stage(graph, _intent(graph, job))
    if leads:
        finish(graph, record, neighbours)


def _intent(graph: Graph, job: Job) -> Intent:
    """The intent as this process sees it. It must be the one that was written for the job."""
    now, begun = graph.intent(job), graph.begun(job)
    if begun is None or begun.digest != now.digest:
        raise StoreError(
            f"{graph.folder(job) / INTENT}: is not what this rank is asked to make",
            hint="leave the run's folder alone while it works, and run the same command again",
        )
    return now


if __name__ == "__main__":
    sys.exit(main())
