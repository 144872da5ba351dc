"""A run that is killed at random points and run again gives the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from leyden.cli.main import run
from processes import Leyden

PROGRAM = [sys.executable, "-m", "leyden.cli.main"]
SAME = ("shards", "commits", "model", "grades")


def command(folder) -> list[str]:
    return ["run", str(folder / "small.toml"), "--out", str(folder / "run")]


def content(folder) -> dict[str, bytes]:
    """The hash of every file that is a result: shards, records, seals, models and grades."""
    files = (p for p in folder.rglob("*") if p.is_file() and "superseded" not in p.parts)
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in files
        if set(SAME) & set(p.parts) or p.name in ("SEALED.json", "results.json", "rendered.jsonl")
    }


@pytest.fixture
def unstarted(copied):
    import shutil

    expected = content(copied / "run")
    shutil.rmtree(copied / "run")
    return copied, expected


def test_sigkill_anywhere_changes_no_byte(unstarted, tmp_path):
    """The run is killed after random numbers of new files, until it is finished."""
    folder, expected = unstarted
    rng = random.Random(os.environ.get("KILL_SEED", "0"))
    kills = 0
    for _ in range(60):
        process = Leyden(command(folder), tmp_path / "log")
        limit = num_files(folder / "run") + rng.randint(1, 60)
        while process.running() and num_files(folder / "run") < limit:
            time.sleep(0.002)
        if not process.running():
            break
        process.kill()
        kills += 1
    assert process.wait() == 0, process.printed
    assert content(folder / "run") == expected
    assert kills >= 2, "too few kills to mean anything"


def num_files(folder) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def test_interrupt_is_a_sentence_and_resumes(unstarted, tmp_path):
    folder, expected = unstarted
    process = Leyden(command(folder), tmp_path / "log")
    while not (folder / "run" / "sft" / "metrics.jsonl").exists():
        time.sleep(0.05)
        assert process.running(), process.printed
    process.send(signal.SIGINT)
    assert process.wait() == 130
    assert "interrupted" in process.printed and "Traceback" not in process.printed
    assert run(command(folder)) == 0
    assert content(folder / "run") == expected


def test_two_processes_do_not_work_on_one_run(unstarted, tmp_path):
    folder, _ = unstarted
    long = [*command(folder), "--sft.steps", "5000"]
    first = Leyden(long, tmp_path / "first")
    try:
        while not (folder / "run" / "teach").exists():
            time.sleep(0.05)
        second = Leyden(long, tmp_path / "second")
        assert second.wait() == 1
        assert "another leyden process" in second.printed
    finally:
        first.kill()


def test_a_full_disk_is_a_sentence_and_what_is_committed_stays(unstarted):
    """A limit on file size takes the place of a full disk: the same OSError at the same writes."""
    folder, expected = unstarted
    limited = ["bash", "-c", 'ulimit -f 24; exec "$@"', "limited", *PROGRAM, *command(folder)]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "error: " in done.stderr and "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert run(command(folder)) == 0
    assert content(folder / "run") == expected


def test_an_unwritable_folder_is_a_sentence(finished, capsys):
    assert run(["run", str(finished / "small.toml"), "--out", "/proc/leyden"]) == 1
    assert "/proc/leyden" in capsys.readouterr().err
