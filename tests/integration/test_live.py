"""What `leyden status` says while a run works, after it was killed, and after an error."""

import json
import shutil
import signal
import time

import pytest

from leyden.cli.main import run
from leyden.errors import StoreError
from leyden.monitor.live import DIED, FAILED, RUNNING, Live, live_state
from leyden.run import lock as locks
from leyden.run.layout import HEARTBEAT
from leyden.run.lock import is_held, lock
from processes import Leyden


@pytest.fixture
def long_run(copied):
    """A command that trains for minutes, and the folder of its run."""
    folder = copied / "run"
    shutil.rmtree(folder)
    recipe = str(copied / "small.toml")
    return ["run", recipe, "--out", str(folder), "--sft.steps", "50000"], folder


def told(folder) -> Live:
    live = live_state(folder)
    assert live is not None
    return live


def wait_until_training(process: Leyden, folder) -> None:
    while not ((live := live_state(folder)) and live.pulse.job == "sft" and live.pulse.done > 2):
        time.sleep(0.05)
        assert process.running(), process.printed


def status(folder, capsys) -> dict:
    capsys.readouterr()
    assert run(["status", str(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_live_run_says_how_far_it_is_and_a_killed_one_that_it_died(long_run, tmp_path, capsys):
    command, folder = long_run
    process = Leyden(command, tmp_path / "log")
    try:
        wait_until_training(process, folder)
        live = status(folder, capsys)
        states = {job["name"]: job["state"] for job in live["jobs"]}
        assert states["teach"] == "done" and states["sft"] == RUNNING
        assert live["live"]["state"] == RUNNING
        assert live["live"]["pulse"]["process"] == process.process.pid
        assert live["live"]["pulse"]["total"] == 50000
        assert told(folder).sentence.startswith("running sft since 20")
        assert " of 50,000 steps" in told(folder).sentence
    finally:
        process.kill()
    dead = status(folder, capsys)
    assert dead["live"]["state"] == DIED
    assert {job["name"]: job["state"] for job in dead["jobs"]}["sft"] == "unfinished"
    assert f"died: process {process.process.pid} on " in told(folder).sentence


def test_an_interrupted_run_says_so_and_a_finished_one_has_nothing_to_say(
    long_run, tmp_path, capsys
):
    command, folder = long_run
    process = Leyden(command, tmp_path / "log")
    wait_until_training(process, folder)
    process.send(signal.SIGINT)
    assert process.wait() == 130
    assert (stopped := told(folder)).state == FAILED and "interrupted" in stopped.sentence
    assert run([*command[:4], "--sft.steps", "6", "--redo", "sft", "--until", "sft"]) == 0
    assert live_state(folder) is None and not (folder / HEARTBEAT).exists()
    assert not list(folder.glob(".tmp-*"))


def test_an_error_is_told(copied, monkeypatch):
    folder = copied / "run"
    shutil.rmtree(folder / "evaluate")

    def full(graph, intent):
        raise StoreError("no space left", hint="free some")

    monkeypatch.setattr("leyden.pipeline.pipeline.call_stage", full)
    assert run(["run", str(copied / "small.toml"), "--out", str(folder)]) == 1
    assert told(folder).state == FAILED
    expected = "in evaluate/teacher: no space left; the same `leyden run` command goes on"
    assert expected in told(folder).sentence


def test_asking_for_a_lock_stops_nobody(tmp_path, monkeypatch):
    """One that waits for a lock does not mistake the question for a process at work."""
    assert not is_held(tmp_path)
    with lock(tmp_path):
        assert is_held(tmp_path)
        with pytest.raises(StoreError, match="another leyden process"), lock(tmp_path):
            raise AssertionError("two processes hold one lock")
    assert not is_held(tmp_path)
    take, refused = locks.take, []

    def busy_at_first(file, shared=False):
        if not refused:
            refused.append(file)
            raise BlockingIOError
        take(file, shared)

    monkeypatch.setattr(locks, "take", busy_at_first)
    with lock(tmp_path):
        assert refused
