"""Get answers from a process that may hang or die: it is started anew, with smaller batches.

A row that was in flight through four deaths is given up; the others go on.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np

from leyden.engines.base import Completion, Failed, TokenScores
from leyden.engines.child import GAVE_UP, Child, ChildDied
from leyden.engines.inside.frames import Frame
from leyden.errors import EngineError

ATTEMPTS = 4  # of a row, or to start: the first, and three with smaller batches
T = TypeVar("T", Completion, TokenScores)


@dataclass
class Asked:
    """A request in flight: its number in the call, its frame, and the deaths that it has seen."""

    index: int
    header: dict[str, Any]
    arrays: list[np.ndarray]
    attempts: int = 0

    @property
    def number(self) -> int:
        return self.header["n"]


@dataclass
class Restarts:
    """A process and how to start it: ``start`` gets the factor by which batches are smaller now."""

    name: str
    start: Callable[[int], Child]
    in_flight: int
    row_seconds: float
    child: Child | None = None
    scale: int = 1
    window: int = 0
    """Requests that it may have at once now."""
    since: dict[int, float] = field(default_factory=dict)
    """Request that the process has -> when it was sent."""
    unanswered: int = 0
    """Deaths since the last answer."""
    count: int = 0
    """Requests so far, over all calls."""
    last: str = ""
    """How the process died the last time."""

    def __post_init__(self) -> None:
        self.window = self.in_flight

    def load(self) -> None:
        """Have the process running. Raises EngineError."""
        while self.child is None:
            try:
                self.child = self.start(self.scale)
            except ChildDied as error:
                self.scale *= 2
                if self.scale > 2 ** (ATTEMPTS - 1) or "does not know" in str(error):
                    raise EngineError(
                        f"{self.name}: {error}",
                        hint="free memory, or lower engines.ROLE.memory, context or sequences",
                    ) from error

    def close(self, *, gently: bool = True) -> None:
        """End the process. A later use starts it again."""
        if self.child is not None:
            self.child.close(gently=gently)
            self.child = None
        self.since.clear()

    def answers(
        self, requests: Iterator[Asked], read: Callable[[Asked, Frame], T | Failed]
    ) -> Iterator[tuple[int, T | Failed]]:
        """Send requests while there is room, and read what comes; after a death, send again."""
        flying: dict[int, Asked] = {}
        requests = map(self._numbered, requests)  # apart from those of a call that was abandoned
        self.since.clear()
        while True:
            try:
                self.load()
                self._fill(requests, flying)
                if not flying:
                    return
                header, arrays = self._receive()
                if header["n"] not in flying:  # asked by a call that was abandoned
                    continue
            except ChildDied as error:
                yield from self._bury(str(error), flying)
                continue
            self.unanswered = 0
            asked = flying.pop(header["n"])
            self.since.pop(asked.number, None)
            if not any(other.attempts for other in flying.values()):
                self.window = self.in_flight  # whoever was there when it died has been answered
            refused = header["kind"] == "refused"
            result = Failed(header["why"]) if refused else read(asked, (header, arrays))
            given_out = time.monotonic()
            yield asked.index, result
            waited = time.monotonic() - given_out  # which is no time of the process
            self.since = {n: sent + waited for n, sent in self.since.items()}

    def _numbered(self, asked: Asked) -> Asked:
        self.count += 1
        asked.header["n"] = self.count
        return asked

    def _fill(self, requests: Iterator[Asked], flying: dict[int, Asked]) -> None:
        """Send as many requests as there is room for, those first that a death interrupted."""
        assert self.child is not None
        room = self.window - len(self.since)
        again = [asked for n, asked in flying.items() if n not in self.since]
        for asked in islice(chain(again, requests), max(0, room)):
            flying[asked.number] = asked
            self.since[asked.number] = time.monotonic()
            self.child.send(asked.header, *asked.arrays)

    def _receive(self) -> Frame:
        assert self.child is not None
        frame, now = self.child.receive(), time.monotonic()
        if late := [n for n, sent in self.since.items() if now - sent > self.row_seconds]:
            raise ChildDied(f"row {late[0]} took over {self.row_seconds:.0f} s")
        return frame

    def _bury(self, why: str, flying: dict[int, Asked]) -> Iterator[tuple[int, Failed]]:
        """End what is left of the process; give up the rows that have seen it die too often."""
        for n in self.since:
            flying[n].attempts += 1
        self.close(gently=False)
        self.scale = min(self.scale * 2, 2 ** (ATTEMPTS - 1))
        # Fewer and fewer rows at once, so that in the end a row that kills it is alone.
        self.window = max(1, self.window // 8) if self.scale < 2 ** (ATTEMPTS - 1) else 1
        self.unanswered += 1
        if self.unanswered > 1 and why == self.last and why.startswith(GAVE_UP):
            raise EngineError(
                f"{self.name}: {why}",
                hint="the model, or a setting of engines.ROLE, is not for this engine",
            )
        self.last = why
        if self.unanswered > 2 * ATTEMPTS:
            raise EngineError(
                f"{self.name} died {self.unanswered} times and answered nothing: {why}",
                hint="what is committed stays; look at its last lines, and run the command again",
            )
        given_up = [n for n, asked in flying.items() if asked.attempts >= ATTEMPTS]
        for n in given_up:
            index = flying.pop(n).index
            yield index, Failed(f"{self.name} died {ATTEMPTS} times while it had this row; {why}")
        if given_up:
            self.scale, self.window = 1, self.in_flight
