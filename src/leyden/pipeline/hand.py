"""A process that helps with a job: ``hand.py RUN JOB``, started by the one that leads it."""

import logging
import signal
import sys
from pathlib import Path

from leyden.distributed.parent import die_with_parent
from leyden.errors import LeydenError
from leyden.pipeline.hands import help_with
from leyden.run.run import Run
from leyden.run.stage import Job


def main() -> int:
    """Exit code 0, or 1 with a sentence on stderr. The leader goes on without it."""
    die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the job is done: engines are closed
    job = Job.parse(sys.argv[2])
    try:
        help_with(Run.open(Path(sys.argv[1])), job)
    except LeydenError as error:
        log = logging.getLogger(__name__)
        log.warning("%s: a worker stopped, the others go on: %s; %s", job, error, error.hint)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
