"""Device-seconds by what they were spent on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SAMPLING, SCORING, TRAINING, MEASURING = "sampling", "scoring", "training", "measuring"


@dataclass
class Clock:
    """Seconds per phase; ``weight`` counts the devices that work side by side."""

    weight: int = 1
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block, unless it fails."""
        began = time.monotonic()
        yield
        self.add(name, (time.monotonic() - began) * self.weight)

    def add(self, name: str, seconds: float) -> None:
        """Count ``seconds`` that were measured elsewhere."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def restore(self, seconds: dict[str, float], *, weight: int) -> None:
        """Go on from ``seconds`` that were counted before."""
        self.weight, self.seconds = weight, dict(seconds)

    @property
    def total(self) -> float:
        return sum(self.seconds.values())
