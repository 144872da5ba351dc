"""Killed at random points and run again: byte-identical stores, bit-identical weights."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from leyden.cli.main import run

SAME = ("shards", "commits", "model", "grades")


def command(folder):
    return [
        sys.executable, "-m", "leyden.cli.main", "run", str(folder / "small.toml"),
        "--out", str(folder / "run"),
    ]  # fmt: skip


def content(folder) -> dict[str, bytes]:
    """Every byte that is a result: shards, commit records, seals, models, grades and scores."""
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


def test_sigkill_anywhere_changes_no_byte(unstarted):
    """Killed whenever a random number of further files is written, until it is through."""
    folder, expected = unstarted
    rng = random.Random(os.environ.get("KILL_SEED", "0"))
    kills = 0
    for _ in range(60):
        process = subprocess.Popen(
            command(folder), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        limit = num_files(folder / "run") + rng.randint(1, 60)
        while process.poll() is None and num_files(folder / "run") < limit:
            time.sleep(0.002)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    assert process.returncode == 0
    assert content(folder / "run") == expected
    assert kills >= 2, "too few kills to mean anything"


def num_files(folder) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def test_interrupt_is_a_sentence_and_resumes(unstarted):
    folder, expected = unstarted
    process = subprocess.Popen(
        command(folder),
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs ignore SIGINT, and their children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (folder / "run" / "sft" / "metrics.jsonl").exists():
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "interrupted" in errors and "Traceback" not in errors
    assert run(command(folder)[3:]) == 0
    assert content(folder / "run") == expected


def test_two_processes_do_not_work_on_one_run(unstarted):
    folder, _ = unstarted
    long = [*command(folder), "--sft.steps", "5000"]
    first = subprocess.Popen(long, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        while not (folder / "run" / "teach").exists():
            time.sleep(0.05)
        second = subprocess.run(long, capture_output=True, text=True, check=False)
    finally:
        first.kill()
        first.wait()
    assert second.returncode == 1
    assert "another leyden process" in second.stderr


def test_a_full_disk_is_a_sentence_and_what_is_committed_stays(unstarted):
    """A file-size limit stands in for a full disk: the same OSError at the same writes."""
    folder, expected = unstarted
    limited = ["bash", "-c", 'ulimit -f 24; exec "$@"', "limited", *command(folder)]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "error: " in done.stderr and "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert run(command(folder)[3:]) == 0
    assert content(folder / "run") == expected


def test_an_unwritable_folder_is_a_sentence(finished, capsys):
    assert run(["run", str(finished / "small.toml"), "--out", "/proc/leyden"]) == 1
    assert "/proc/leyden" in capsys.readouterr().err
