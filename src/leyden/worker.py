"""One rank of a training job; started by ``pipeline`` under torchrun."""

import sys
from pathlib import Path

from leyden.checks import check_unchanged
from leyden.pipeline import finish, stage_function
from leyden.run import Run
from leyden.train.parallel import Ranks


def main() -> None:
    root, job = Path(sys.argv[1]), sys.argv[2]
    run = Run.open(root)
    record = stage_function(job.partition("/")[0])(run, run.intent(job))
    if Ranks.join(run.recipe.execution.device).leads:
        check_unchanged(run, job)
        finish(run, record)


if __name__ == "__main__":
    main()
