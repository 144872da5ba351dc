"""The process that leads a job, as those see it who help."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from leyden.provenance.records import RECORD
from leyden.run.lock import is_led
from leyden.run.stage import Job

T = TypeVar("T")
LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Leader:
    """The process that leads ``job`` of the run in ``root``."""

    root: Path
    job: Job

    @property
    def has_gone(self) -> bool:
        """Whether the job is finished, or nobody leads it any more."""
        return (self.root / str(self.job) / RECORD).exists() or not is_led(self.root, self.job)

    def wait_for(self, look: Callable[[], T | None]) -> T | None:
        """Call ``look`` until it finds something and return that; None if the leader goes first."""
        while (found := look()) is None:
            if self.has_gone:
                return look()
            time.sleep(LOOK_SECONDS)
        return found
