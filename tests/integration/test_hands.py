"""Several processes on one stage make the bytes that one makes, whichever of them are killed."""

import contextlib
import json
import random
import shutil
import signal
import time
from dataclasses import replace

import pytest

from conftest import ROOT, write_small_recipe
from leyden.errors import ConfigError, StoreError
from leyden.pipeline.hands import help_with
from leyden.pipeline.pipeline import run_recipe, work_on
from leyden.recipe.toml import load_recipe, parse_overrides
from leyden.run.graph import resolve
from leyden.run.layout import RECIPE
from leyden.run.lock import job_lock
from leyden.run.run import Run
from leyden.run.stage import ROLLOUT, SCORE, SFT, Job, evaluate
from leyden.store.reader import open_store
from processes import Leyden
from table_engine import TableEngine

FLAGS = [
    "--execution.rows-per-unit", "2", "--execution.generate-batch-size", "2",
    "--evaluate.kl-prompts", "4", "--distill.arms", "{sampled = {steps = 2}}", "--sft.steps", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Run:
    """A run that one process made."""
    folder = tmp_path_factory.mktemp("hands")
    run = Run(folder / "run", load_recipe(write_small_recipe(folder), parse_overrides(FLAGS)))
    run_recipe(run)
    return run


@pytest.fixture
def copy(done, tmp_path) -> Run:
    shutil.copytree(done.root, tmp_path / "run")
    return Run.open(tmp_path / "run")


def forget(run: Run, *jobs: Job) -> None:
    for job in jobs:
        shutil.rmtree(run.folder(job))


def bytes_of(folder) -> dict[str, bytes]:
    """Everything of a store but what tells how long it took, and who made it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {"timings", "hands"} & set(path.relative_to(folder).parts)
        and path.name != "record.json"
    }  # fmt: skip


@pytest.mark.parametrize("job", [ROLLOUT, SCORE, evaluate("base")], ids=str)
def test_two_workers_make_the_bytes_of_one(done, copy, tmp_path, job):
    forget(copy, job)
    workers = [Leyden(["work", copy.root, job], tmp_path / f"log{i}") for i in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0], [w.printed for w in workers]
    assert bytes_of(copy.folder(job)) == bytes_of(done.folder(job))
    assert not list(copy.folder(job).rglob("leases"))
    record = resolve(copy).record(job)
    assert record is not None and record.environment["engines"][0]["processes"] in (1, 2)


def test_workers_that_are_killed_at_random_make_the_same_bytes(done, copy, tmp_path):
    forget(copy, ROLLOUT)
    rng, kills, workers = random.Random(0), 0, list[Leyden]()
    until = time.monotonic() + 100
    while resolve(copy).record(ROLLOUT) is None and time.monotonic() < until:
        workers = [worker for worker in workers if worker.running()]
        while len(workers) < 3:
            workers.append(Leyden(["work", copy.root, "rollout"], tmp_path / f"log{kills}"))
        time.sleep(rng.uniform(0.1, 0.8))
        if kills < 12:
            victim = rng.choice(workers)
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                victim.kill()
                kills += 1
            workers.remove(victim)
    for worker in workers:
        assert worker.wait() == 0, worker.printed
    assert kills > 1 and bytes_of(copy.folder(ROLLOUT)) == bytes_of(done.folder(ROLLOUT))


def test_a_run_starts_the_workers_that_its_recipe_asks_for(done, tmp_path):
    recipe = load_recipe(done.root / RECIPE, parse_overrides(["--execution.workers", "2"]))
    run = Run(tmp_path / "run", recipe)
    run_recipe(run, until="score")
    for job in (ROLLOUT, SCORE):
        assert bytes_of(run.folder(job)) == bytes_of(done.folder(job))


def test_a_worker_with_another_recipe_is_refused(copy):
    """It reads the same folder, so the recipe was changed since the leader began."""
    forget(copy, ROLLOUT)
    graph = resolve(copy)
    store = copy.folder(ROLLOUT)
    with job_lock(copy.root, ROLLOUT) as ours:
        assert ours
        from leyden.provenance.records import write_intent

        store.mkdir()
        write_intent(store, graph.intent(ROLLOUT))
        other = load_recipe(copy.root / RECIPE, parse_overrides(["--rollout.temperature", "0.3"]))
        with pytest.raises(ConfigError, match=r"rollout\.temperature = 1\.0, .* now says 0\.3"):
            help_with(replace(copy, recipe=other), ROLLOUT)


def test_the_size_of_a_unit_is_that_of_the_first_worker(done, copy):
    store = copy.folder(ROLLOUT)
    for name in ("record.json", "SEALED.json"):
        (store / name).unlink()
    for commit in sorted((store / "commits").iterdir())[1:]:
        commit.unlink()
    flags = parse_overrides(["--execution.rows-per-unit", "64"])
    work_on(replace(copy, recipe=load_recipe(copy.root / RECIPE, flags)), "rollout")
    assert bytes_of(store) == bytes_of(done.folder(ROLLOUT))


def test_a_stage_is_not_made_again_while_a_helper_works_on_it(copy, tmp_path):
    """Its leader is killed, so that nobody holds the job; the helper is in the middle of a unit."""
    forget(copy, ROLLOUT)
    leader = Leyden(["work", copy.root, "rollout"], tmp_path / "leader")
    helper = Leyden(["work", copy.root, "rollout"], tmp_path / "helper")
    until = time.monotonic() + 60
    while not list(copy.folder(ROLLOUT).glob("commits/*.json")) and time.monotonic() < until:
        time.sleep(0.02)
    helper.send(signal.SIGSTOP)
    leader.kill()
    leases = list(copy.folder(ROLLOUT).glob("leases/*.json"))
    mine = [p for p in leases if json.loads(p.read_text())["pid"] == helper.process.pid]
    try:
        if mine:  # it may stand between two units
            with pytest.raises(StoreError, match="`leyden work` makes it at this moment"):
                run_recipe(copy, redo=["rollout"])
    finally:
        helper.send(signal.SIGCONT)
    assert helper.wait() == 0, helper.printed


def test_a_stage_of_one_process_cannot_be_shared(copy):
    with pytest.raises(ConfigError, match="sft: cannot be divided among workers"):
        work_on(copy, "sft")


def test_a_stage_whose_inputs_are_not_there_is_refused(copy):
    forget(copy, SFT, ROLLOUT)
    with pytest.raises(StoreError, match="rollout: is made from sft, which is not finished"):
        work_on(copy, "rollout")


def test_a_job_that_workers_make_is_not_made_again_meanwhile(copy):
    with (
        job_lock(copy.root, ROLLOUT) as ours,
        pytest.raises(StoreError, match="`leyden work` makes it at this moment"),
    ):
        assert ours
        run_recipe(copy, redo=["rollout"])
    assert open_store(copy.folder(ROLLOUT))


def test_an_engine_of_this_process_cannot_have_workers(done, tmp_path):
    recipe = load_recipe(done.root / RECIPE, parse_overrides(["--execution.workers", "2"]))
    run = Run(tmp_path / "run", recipe, open_engine=TableEngine)
    with pytest.raises(ConfigError, match=r"execution\.workers = 2, and its engine is opened by"):
        run_recipe(run)
    assert (ROOT / "recipes").is_dir()
