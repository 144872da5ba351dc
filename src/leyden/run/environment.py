"""The machine that a job runs on: what its record tells people, and torch's threads."""

import os
import platform
import sys
import time

from leyden.provenance.records import package_versions
from leyden.recipe.schema import Execution

PACKAGES = ("leyden", "torch", "transformers", "pyarrow", "numpy")


def environment_of(execution: Execution) -> dict[str, object]:
    """Versions, device, threads and the time of day, for people; never compared. Imports torch."""
    import torch

    from leyden.models.load import pick_device

    return {
        "versions": package_versions(*PACKAGES),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "device": str(pick_device(execution.device)),
        "dtype": execution.dtype,
        "threads": torch.get_num_threads(),
        "ranks": execution.ranks,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def usable_cpus() -> int:
    """CPUs that this process may use; all of them on systems that do not say, macOS and Windows."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def use_threads(execution: Execution) -> None:
    """Set the number of torch's CPU threads, where the recipe names one. Several workers of one
    machine divide its CPUs."""
    shared = max(1, usable_cpus() // execution.workers) if execution.workers > 1 else 0
    if threads := execution.threads or shared:
        import torch

        torch.set_num_threads(threads)
