"""Heartbeats and neighbours: what a process says of its work, and who else used the machine."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leyden.telemetry import heartbeat
from leyden.telemetry.heartbeat import Heartbeat, Pulse, read_pulse
from leyden.telemetry.neighbours import Neighbours, crowded, tree_seconds
from leyden.telemetry.progress import silent

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")


def words(folder: Path) -> Pulse:
    pulse = read_pulse(folder / "beat")
    assert pulse is not None
    return pulse


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(heartbeat, "time", clock)
    return clock


def test_the_rate_is_of_this_process_and_of_the_last_minute(tmp_path, clock):
    heart = Heartbeat(tmp_path / "beat", silent)
    heart.begin("sft")
    with heart("sft", 1000, "steps") as advance:
        clock.now += 50  # loading the model
        advance(400)  # done before, by a process that was killed
        for _ in range(100):
            clock.now += 2
            advance(1)
        slow = words(tmp_path)
        for _ in range(120):
            clock.now += 1
            advance(1)
    pulse = words(tmp_path)
    assert slow.rate == pytest.approx(0.5, rel=0.05)
    assert pulse.rate == pytest.approx(1.0, rel=0.05)
    assert (pulse.job, pulse.done, pulse.total, pulse.since) == ("sft", 620, 1000, 1000.0)
    heart.fail("no space left")
    assert words(tmp_path).ended == "no space left"
    heart.stop()
    assert list(tmp_path.iterdir()) == []


def test_a_heartbeat_that_cannot_be_written_stops_no_work(tmp_path):
    heart = Heartbeat(tmp_path / "no" / "beat", silent)
    heart.begin("sft")
    with heart("sft", 2, "steps") as advance:
        advance(1)
    heart.stop()


@pytest.mark.parametrize("text", ["", "[]", '{"job": 3}', "\xff"])
def test_a_damaged_heartbeat_is_none(tmp_path, text):
    (tmp_path / "beat").write_text(text, encoding="latin-1")
    assert read_pulse(tmp_path / "beat") is None


@needs_proc
def test_work_of_children_is_ours_and_work_beside_us_is_not():
    burn = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    before = tree_seconds(os.getpid())
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert tree_seconds(os.getpid()) - before >= 0.4
    with subprocess.Popen(["sleep", "60"]) as idle:
        beside = Neighbours(root=idle.pid)
        end = time.process_time() + 0.5
        while time.process_time() < end:
            pass
        facts = beside.facts()
        idle.kill()
    assert facts["cpus_used"] < 0.1 and facts["cpus_of_others"] > 0.5


@pytest.mark.parametrize(
    ("ours", "others", "cautious"),
    [(2.0, 0.1, False), (1.0, 1.0, True), (0.3, 0.9, False), (7.5, 0.7, False), (0.0, 0.0, False)],
)
def test_a_machine_is_crowded_where_it_is_full_and_not_with_us(ours, others, cautious):
    cpus = 8.0 if ours > 2 else 2.0
    assert crowded({"cpus": cpus, "cpus_used": ours, "cpus_of_others": others}) == cautious
    assert not crowded({})
