"""torchrun, without its own traceback when a rank fails: the rank has said why."""

import logging
import os
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main


def launch(arguments: list[str]) -> int:
    """Exit code 0, or 1 when a rank failed. ``arguments`` are torchrun's."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun's own choice, without its warning
    try:
        main(arguments)
    except ChildFailedError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
