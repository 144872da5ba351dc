"""Training on several ranks: errors, locks and settings cross to the processes that train."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import record_of
from leyden.cli.main import run
from leyden.data.batches import rows_of_step
from leyden.data.prompt_set import OPD_SPLIT
from leyden.engines.open import open_engine
from leyden.errors import ConfigError, StoreError
from leyden.pipeline.pipeline import run_jobs, run_recipe
from leyden.pipeline.rank import work
from leyden.provenance.identity import derive_seed
from leyden.provenance.records import write_intent, write_record
from leyden.recipe.toml import load_recipe, parse_overrides
from leyden.run.artifacts import open_artifact
from leyden.run.graph import resolve
from leyden.run.lock import lock
from leyden.run.run import Run
from leyden.run.stage import ROLLOUT, SCORE, distill
from leyden.store.plan import read_plan
from leyden.store.writer import open_writer, read_header
from processes import Leyden


@pytest.fixture
def undistilled(copied) -> Run:
    """A run whose scores are finished and whose arms are not."""
    shutil.rmtree(copied / "run/distill")
    shutil.rmtree(copied / "run/evaluate")
    return Run.open(copied / "run")


def with_fields(run: Run, *fields: str) -> Run:
    """The run asked for with other fields, in memory alone."""
    return replace(run, recipe=load_recipe(run.root / "recipe.toml", parse_overrides(list(fields))))


def spoil_score(run: Run, row: int) -> None:
    """Make a row of the score store NaN, with all hashes as they should be."""
    folder = run.folder(SCORE)
    store, header = open_artifact(resolve(run), SCORE), read_header(folder)
    rows, units = list(store), read_plan(folder, header["plan"])
    rows[row]["logp_teacher"] = np.full_like(rows[row]["logp_teacher"], np.nan)
    schema, record = store.schema, record_of(folder)
    shutil.rmtree(folder)
    writer = open_writer(folder, schema, units, origin=header["origin"])
    for unit in units:
        mine, rows = rows[: len(unit.rows)], rows[len(unit.rows) :]
        writer.commit(unit, mine, seconds=0.0)
    write_intent(folder, record.intent)
    write_record(folder, replace(record, fingerprint=writer.seal()))


def test_an_error_of_any_rank_is_the_error_of_the_command(undistilled, capfd):
    """Rank 1 reads the second row of a batch, and no other rank reads it."""
    splits = open_artifact(resolve(undistilled), ROLLOUT).values("split")
    trained = [i for i, split in enumerate(splits) if split == OPD_SPLIT]
    seed = derive_seed(undistilled.recipe.seed, "distill") % 2**32
    order = rows_of_step(0, batch_size=8, num_rows=len(trained), seed=seed)
    spoil_score(undistilled, trained[order[1]])
    recipe = str(undistilled.root.parent / "small.toml")
    flags = ["--execution.ranks", "2", "--until", "distill/tail"]
    assert run(["run", recipe, "--out", str(undistilled.root), *flags]) == 1
    errors = capfd.readouterr().err
    assert errors.count("error: ") == 1 and "error: rank 1: " in errors
    assert f"row {trained[order[1]]}" in errors and "hint: score again" in errors
    assert 'File "' not in errors


def test_a_run_stays_locked_while_a_rank_outlives_the_command(undistilled, tmp_path):
    asked = with_fields(undistilled, "--distill.steps", "100000")
    run_recipe(asked, until="score")  # writes the recipe
    graph, job = resolve(asked), distill("tail")
    asked.folder(job).mkdir(parents=True)
    write_intent(asked.folder(job), graph.intent(job))
    command = [sys.executable, "-m", "leyden.pipeline.rank", str(asked.root), str(job)]
    rank = subprocess.Popen([*command, str(tmp_path)])
    metrics = asked.folder(job) / "metrics.jsonl"
    while not metrics.exists():
        assert rank.poll() is None
        time.sleep(0.05)
    with pytest.raises(StoreError, match="another leyden process"), lock(asked.root):
        pass
    os.kill(rank.pid, signal.SIGKILL)
    rank.wait()
    with lock(asked.root):
        pass


def test_a_rank_does_not_make_anything_else_than_the_job_that_was_begun(undistilled):
    job = distill("tail")
    begun = resolve(undistilled).intent(job)
    undistilled.folder(job).mkdir(parents=True)
    write_intent(undistilled.folder(job), begun)
    with pytest.raises(StoreError, match="not what this rank is asked to make"):
        work(with_fields(undistilled, "--distill.steps", "3"), job)


def test_the_ranks_read_the_recipe_that_was_asked_for(undistilled):
    asked = with_fields(undistilled, "--distill.steps", "2")
    run_jobs(asked, [distill("tail")])
    assert Run.open(undistilled.root).recipe == asked.recipe
    assert record_of(asked.folder(distill("tail"))).counts["steps"] == 2


def test_ranks_and_an_engine_of_this_process_cannot_go_together(undistilled):
    asked = with_fields(undistilled, "--execution.ranks", "2")
    mine = replace(asked, open_engine=lambda spec: open_engine(spec))
    with pytest.raises(ConfigError, match=r"distill/live: execution\.ranks = 2"):
        run_jobs(mine, [distill("live")])


def processes_of(run: Run) -> list[str]:
    """Command lines of the processes that train in the run's folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended meanwhile
            continue
        if str(run.root) in text and "leyden.pipeline.rank" in text:
            found.append(text)
    return found


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a process of its parent's end"
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ranks_end_with_the_command_that_started_them(undistilled, tmp_path, number):
    recipe, flags = undistilled.root.parent / "small.toml", ["--execution.ranks", "2"]
    command = ["run", recipe, "--out", undistilled.root, *flags, "--until", "distill/sampled"]
    process = Leyden([*command, "--distill.steps", "100000"], tmp_path / "log")
    metrics, began = undistilled.folder(distill("sampled")) / "metrics.jsonl", time.monotonic()
    while not metrics.exists() or metrics.read_text().count("train") < 3:
        assert process.running() and time.monotonic() - began < 60, process.printed
        time.sleep(0.05)
    assert len(processes_of(undistilled)) == 3  # torchrun and two ranks
    process.send(number)
    process.wait()
    deadline = time.monotonic() + 30
    while processes_of(undistilled) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(undistilled) == []
    assert "Traceback" not in process.printed
    if number == signal.SIGINT:
        assert process.printed.rstrip().endswith("hint: the same command resumes")
    while True:  # a process that is ending shows no command any more, and gives its files back last
        try:
            with lock(undistilled.root):
                break
        except StoreError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
