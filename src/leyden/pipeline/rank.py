"""One rank of a training job; started by ``pipeline`` under torchrun."""

import os
import sys
from pathlib import Path

from leyden.distributed.ranks import Ranks
from leyden.errors import LeydenError
from leyden.pipeline.drift import check_unchanged
from leyden.pipeline.pipeline import finish, stage_function
from leyden.run.run import Run


def main() -> int:
    """Exit code 0, or 1 with a LeydenError's sentence, said by the leading rank alone."""
    try:
        work()
    except LeydenError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        return 1
    return 0


def work() -> None:
    root, job = Path(sys.argv[1]), sys.argv[2]
    run = Run.open(root)
    record = stage_function(job.partition("/")[0])(run, run.intent(job))
    if Ranks.join(run.recipe.execution.device).leads:
        check_unchanged(run, job)
        finish(run, record)


if __name__ == "__main__":
    sys.exit(main())
