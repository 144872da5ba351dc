"""torchrun, without its own traceback when a rank fails or it is stopped: the rank, or whoever
stopped it, has said why."""

import logging
import os
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

from leyden.distributed.parent import die_with_parent, with_parent


def launch(arguments: list[str]) -> int:
    """Exit code 0; 1 when a rank failed; 128 + N when signal N stopped all ranks. ``arguments``
    are torchrun's."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun's own choice, without its warning
    try:
        main(arguments)
    except ChildFailedError:
        return 1
    except SignalException as error:
        return 128 + error.sigval
    return 0


if __name__ == "__main__":
    die_with_parent(gently=True)  # torchrun passes the signal on to the ranks
    os.environ.update(with_parent())
    sys.exit(launch(sys.argv[1:]))
