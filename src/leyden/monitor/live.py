"""The work on a run at this moment: running, or how it ended too early."""

import time
from dataclasses import dataclass
from pathlib import Path

from leyden.run.layout import HEARTBEAT
from leyden.run.lock import is_held
from leyden.telemetry.heartbeat import Pulse, read_pulse

RUNNING, DIED, FAILED = "running", "died", "failed"


@dataclass(frozen=True)
class Live:
    """``state`` is RUNNING, DIED (killed, or the machine went down) or FAILED (by an error)."""

    state: str
    pulse: Pulse
    now: float
    """Unix seconds at which this was seen."""

    @property
    def sentence(self) -> str:
        """All of it for people, in the machine's time zone."""
        pulse = self.pulse
        part = f", {pulse.what}" if pulse.what else ""
        how_far = f"{part}, {pulse.done:,} of {pulse.total:,} {pulse.unit}" if pulse.total else ""
        if self.state == RUNNING:
            rate, left = pulse.rate, pulse.total - pulse.done
            speed = f", {rate:.3g} {pulse.unit} a second, {_span(left / rate)} left" if rate else ""
            heard = f"; last heard of {_span(self.now - pulse.beat)} ago"
            return f"running {pulse.job} since {_clock(pulse.since)}{how_far}{speed}{heard}"
        where = f"process {pulse.process} on {pulse.machine} in {pulse.job}{how_far}"
        again = "the same `leyden run` command goes on from there"
        if self.state == FAILED:
            return f"stopped at {_clock(pulse.beat)}: {where}: {pulse.ended}; {again}"
        return f"died: {where}, last heard of at {_clock(pulse.beat)}; {again}"


def live_state(root: Path) -> Live | None:
    """What is known of the work on a run; None where none began, or all of it was done."""
    held = is_held(root)  # first, so that a process that ends meanwhile is not taken for dead
    pulse = read_pulse(root / HEARTBEAT)
    if pulse is None:
        return None
    state = RUNNING if held and not pulse.ended else FAILED if pulse.ended else DIED
    return Live(state, pulse, time.time())


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
