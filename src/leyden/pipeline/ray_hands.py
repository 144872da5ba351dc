"""Helpers on a Ray cluster: Ray places them, and starts those anew that have died.

Every node must see the run's folder and the models under the same paths. Within a store, leases
divide the units, as they do for all helpers. The command itself is one of the workers.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leyden.errors import ConfigError, LeydenError, first_line
from leyden.run.run import Run
from leyden.run.stage import Job

RESTARTS = 3


class RayHand:
    """An actor: one helper."""

    def help_with(self, root: str, job: str) -> str:
        """Help until nothing is left; what went wrong, if something did."""
        from leyden.pipeline.hands import help_with

        try:
            help_with(Run.open(Path(root)), Job.parse(job))
        except LeydenError as error:
            return f"{error}; {error.hint}"
        return ""


@contextmanager
def ray_helpers(run: Run, job: Job) -> Iterator[None]:
    """Actors that help with ``job`` until the context ends. Raises ConfigError without Ray."""
    ray = import_ray()
    execution, ours = run.recipe.execution, not ray.is_initialized()
    if ours:
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
        except (ValueError, RuntimeError, ConnectionError) as error:
            raise ConfigError(
                f'execution.cluster = "ray": no cluster answers: {first_line(error)}',
                hint="correct or unset RAY_ADDRESS; without it, a cluster of this machine is begun",
            ) from error
    on_gpus = execution.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
    options: dict[str, Any] = {
        "num_gpus": execution.devices_per_worker if on_gpus else 0,
        "num_cpus": 1,
        "max_restarts": RESTARTS,
        "max_task_retries": RESTARTS,
    }
    actor = ray.remote(RayHand).options(**options)
    hands = [actor.remote() for _ in range(execution.workers - 1)]
    waiting = [hand.help_with.remote(str(run.root.absolute()), str(job)) for hand in hands]
    try:
        yield
    finally:
        done, _ = ray.wait(waiting, num_returns=len(waiting), timeout=5)
        _report(ray, done, job)
        for hand in hands:
            ray.kill(hand)
        if ours:
            ray.shutdown()


def _report(ray: Any, done: list[Any], job: Job) -> None:
    for task in done:
        try:
            problem = ray.get(task)
        except ray.exceptions.RayError as error:
            problem = f"{error}".splitlines()[0]
        if problem:
            log = logging.getLogger(__name__)
            log.warning("%s: a worker stopped, the others go on: %s", job, problem)


def import_ray() -> Any:
    """Ray, or a ConfigError that says how to get it."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            'execution.cluster = "ray": Ray is not installed here',
            hint='`pip install "leyden[ray]"`, or leave cluster out and use execution.workers',
        ) from error
    return ray
