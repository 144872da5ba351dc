"""The heartbeat of a working process: a file that tells others what it does and how far it is."""

import contextlib
import json
import os
import platform
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from leyden.files import temporary_name
from leyden.telemetry.progress import Advance, Progress

BEAT_SECONDS = 1.0  # between two writes of the file at least
WINDOW_SECONDS = 60.0  # over which a rate is measured


@dataclass(frozen=True)
class Pulse:
    """A process's own words about its work. Times are Unix seconds."""

    job: str
    process: int
    machine: str
    since: float
    """The time at which it began the job."""
    beat: float
    """The time of these words."""
    what: str = ""
    """The part of the job that it does, where it says so, such as grading."""
    done: int = 0
    total: int = 0
    unit: str = ""
    rate: float = 0.0
    """Units per second over the last minute."""
    ended: str = ""
    """The error that ended the work; empty while it goes on."""


class Heartbeat:
    """A progress that also keeps ``path`` up to date, for as long as the process works.

    Nothing depends on the file, so that one that cannot be written stops no work.
    """

    def __init__(self, path: Path, shown: Progress) -> None:
        self.path, self.shown = path, shown
        self.pulse: Pulse | None = None

    def begin(self, job: str) -> None:
        """The process begins a job."""
        now = time.time()
        self._beat(Pulse(job, os.getpid(), platform.node(), since=now, beat=now))

    @contextmanager
    def __call__(self, name: str, total: int, unit: str) -> Iterator[Advance]:
        """Show progress, and write it to the file."""
        done, past = 0, deque([(time.time(), 0)])

        def beat() -> None:
            now = time.time()
            past.append((now, done))
            while len(past) > 2 and now - past[0][0] > WINDOW_SECONDS:
                past.popleft()
            (first, before), elapsed = past[0], now - past[0][0]
            rate = (done - before) / elapsed if now > first else 0.0
            if self.pulse is not None:
                part = name.removeprefix(self.pulse.job).lstrip(", ")
                words = replace(self.pulse, beat=now, what=part, done=done, total=total)
                self._beat(replace(words, unit=unit, rate=rate))

        with self.shown(name, total, unit) as advance:
            beat()

            def both(amount: int, note: str = "") -> None:
                nonlocal done
                advance(amount, note)
                if done == 0:  # what an earlier process had done comes at once, and is no rate
                    past.clear()
                done += amount
                if not past or done == total or time.time() - past[-1][0] >= BEAT_SECONDS:
                    beat()

            yield both

    def fail(self, sentence: str) -> None:
        """The work ends with an error."""
        if self.pulse is not None:
            self._beat(replace(self.pulse, beat=time.time(), ended=sentence))

    def stop(self) -> None:
        """The work ends as it should: nothing is left to tell."""
        self.path.unlink(missing_ok=True)

    def _beat(self, pulse: Pulse) -> None:
        self.pulse, aside = pulse, temporary_name(self.path)
        with contextlib.suppress(OSError):  # a full disk stops the work where it matters
            aside.write_text(json.dumps(asdict(pulse)), encoding="utf-8")
            os.replace(aside, self.path)


def read_pulse(path: Path) -> Pulse | None:
    """The last words of a process; None where there are none that can be read."""
    try:
        return TypeAdapter(Pulse).validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
