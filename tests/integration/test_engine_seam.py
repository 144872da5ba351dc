"""A second engine goes through every stage that samples or scores."""

import shutil
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from conftest import record_of, write_small_recipe
from leyden.data.batches import collate
from leyden.data.scored import sequence_of
from leyden.engines.base import Offers
from leyden.errors import ConfigError, EngineError, StoreError
from leyden.models.load import load_model
from leyden.monitor.show import show_row
from leyden.pipeline.pipeline import run_jobs, run_recipe
from leyden.pipeline.verify import verify_run
from leyden.recipe.toml import load_recipe, parse_overrides
from leyden.run.graph import resolve
from leyden.run.run import REFERENCE, Run
from leyden.run.stage import ROLLOUT, SCORE, TEACH, distill, evaluate
from leyden.store.reader import open_store
from leyden.store.schema import teacher_tail
from leyden.telemetry.metrics import read_metrics
from leyden.train.student import StudentLM
from table_engine import TableEngine, table

ARMS = '{tail = {objective = "topk_tail", steps = 2}, sampled = {steps = 2}}'
FLAGS = ["--distill.arms", ARMS, "--evaluate.kl-prompts", "0", "--sft.steps", "2"]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Run:
    """A whole run in which the table is every engine."""
    folder = tmp_path_factory.mktemp("seam")
    recipe = load_recipe(write_small_recipe(folder), parse_overrides(FLAGS))
    run = Run(folder / "run", recipe, open_engine=TableEngine)
    run_recipe(run)
    return run


@pytest.fixture
def copy(done, tmp_path) -> Run:
    shutil.copytree(done.root, tmp_path / "run")
    return replace(done, root=tmp_path / "run")


def logp_of(seed: int, row) -> np.ndarray:
    """The oracle: the table's log-probs of a stored completion."""
    before = [row["prompt_ids"][-1], *row["completion_ids"][:-1]]
    return table(seed)[before, row["completion_ids"]]


@pytest.mark.parametrize(
    ("job", "seed"),
    [(TEACH, 0), (ROLLOUT, 1), (evaluate("teacher"), 0), (evaluate("base"), 1)],
    ids=str,
)
def test_what_is_sampled_is_the_engines_of_that_role(done, job, seed):
    folder = done.folder(job)
    store = open_store(folder / "samples/sums" if job.stage == "evaluate" else folder)
    for row in store:
        np.testing.assert_allclose(row["logp_sampler"], logp_of(seed, row), atol=1e-6)
    assert {row["finish_reason"] for row in store} <= {"stop", "length"}
    numerics = record_of(folder).intent.numerics
    assert [values["engine"] for values in numerics.values()] == ["table"]


def test_the_teachers_scores_are_the_tables_and_say_how_their_tail_was_found(done):
    rollouts, scores = open_store(done.folder(ROLLOUT)), open_store(done.folder(SCORE))
    assert teacher_tail(scores.schema) == "complement"
    assert "teacher_entropy" not in scores.schema.names
    for rollout, score in zip(rollouts, scores, strict=True):
        np.testing.assert_allclose(score["logp_teacher"], logp_of(0, rollout), atol=1e-6)
        before = [rollout["prompt_ids"][-1], *rollout["completion_ids"][:-1]]
        likeliest = np.sort(table(0)[before], axis=-1)[:, ::-1][:, :4]
        np.testing.assert_allclose(score["teacher_topk_logp"].reshape(-1, 4), likeliest, atol=1e-6)


def test_the_reference_is_scored_by_the_trainers_own_forward(done):
    """The stored bits are those of the student before its first step, at the teacher's ids too."""
    rollouts, scores = open_store(done.folder(ROLLOUT)), open_store(done.folder(SCORE))
    student = StudentLM(load_model(done.place(REFERENCE), device="cpu", dtype="float32"), chunk=99)
    for i in (0, 7, 39):
        batch = collate([sequence_of(rollouts[i])])
        ids = torch.from_numpy(scores[i]["topk_ids"].reshape(-1, 4).astype(np.int64))
        with torch.no_grad():
            logp = student(batch, torch.cat([batch.target_N[:, None], ids], -1)).numpy()
        np.testing.assert_allclose(scores[i]["logp_reference"], logp[:, 0], rtol=1e-6)
        stored = scores[i]["reference_topk_logp"].reshape(-1, 4)
        np.testing.assert_allclose(stored, logp[:, 1:], rtol=1e-6)
    for arm in ("tail", "sampled"):
        metrics = read_metrics(done.folder(distill(arm)) / "metrics.jsonl")
        start = next(m for m in metrics if m["split"] == "heldout")
        assert start["step"] == 0 and start["drift_rms"] < 1e-5
        assert start["ratio_mean"] == pytest.approx(1, abs=1e-5)


def test_such_a_run_is_shown_and_verified(done):
    assert list(verify_run(done))[-1] == "one teacher: verified"
    shown = show_row(resolve(done), "score", 3).tokens[0]
    assert shown.teacher is not None and shown.teacher_entropy is None


class Dying(TableEngine):
    """Gives some results and dies."""

    def generate(self, requests, sampling, stop_ids):
        yield from self.few(super().generate(requests, sampling, stop_ids))

    def score(self, requests):
        yield from self.few(super().score(requests))

    @staticmethod
    def few(results):
        """The first results of many; all of them where an engine is only tried."""
        yield from islice(results, 37)
        if next(results, None) is None:
            return
        raise EngineError("the engine died", hint="start it again")


@pytest.mark.parametrize("job", [ROLLOUT, SCORE], ids=str)
def test_whole_units_survive_an_engine_that_dies(copy, job):
    """A unit is committed when its last row comes, in any order. A resume does the rest."""
    expected = open_store(copy.folder(job)).fingerprint
    for name in ("rollout", "score", "distill", "evaluate"):
        if job == ROLLOUT or name != "rollout":
            shutil.rmtree(copy.root / name)
    with pytest.raises(EngineError, match="died"):
        run_jobs(replace(copy, open_engine=Dying), [job])
    committed = {path.stem for path in (copy.folder(job) / "commits").glob("*.json")}
    assert 0 < len(committed) < 5
    assert committed != {f"{i:06d}" for i in range(len(committed))}, "only the first: no scramble"
    run_jobs(copy, [job])
    assert open_store(copy.folder(job)).fingerprint == expected


def broken(change):
    class Broken(TableEngine):
        def generate(self, requests, sampling, stop_ids):
            return iter(change(list(super().generate(requests, sampling, stop_ids))))

    return Broken


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda results: [*results, results[0]], "answered twice"),
        (lambda results: results[1:], r"1 of \d+ requests were not answered"),
        (lambda results: [(99, made) for _, made in results], r"request 99 of \d+"),
    ],
)
def test_an_engine_that_breaks_its_contract_is_refused(copy, change, problem):
    for name in ("rollout", "score", "distill", "evaluate"):
        shutil.rmtree(copy.root / name)
    with pytest.raises(EngineError, match=problem):
        run_jobs(replace(copy, open_engine=broken(change)), [ROLLOUT])
    assert not resolve(copy).finished(ROLLOUT)


class NoTopK(TableEngine):
    offers = Offers(top_k=False)

    def load(self):
        raise AssertionError("refused before anything is loaded")


class Mistaken(TableEngine):
    offers = Offers(entropy=False, tail="exact")


def test_an_engine_without_what_the_recipe_needs_is_refused_before_it_loads(copy):
    for name in ("score", "distill", "evaluate"):
        shutil.rmtree(copy.root / name)
    with pytest.raises(ConfigError, match="does not offer 'top_k'"):
        run_jobs(replace(copy, open_engine=NoTopK), [SCORE])
    with pytest.raises(EngineError, match="offers tails that are exact, and gave complement"):
        run_jobs(replace(copy, open_engine=Mistaken), [SCORE])


class Exact(TableEngine):
    """The same scores with tails summed from the other logits."""

    offers = Offers(entropy=False, tail="exact")

    def score(self, requests):
        for index, scores in super().score(requests):
            assert scores.top_k is not None
            yield index, replace(scores, top_k=replace(scores.top_k, tail_is="exact"))


def test_a_store_does_not_mix_two_kinds_of_tail(copy):
    for name in ("distill", "evaluate"):
        shutil.rmtree(copy.root / name)
    for path in ("record.json", "SEALED.json", "commits/000001.json"):
        (copy.folder(SCORE) / path).unlink()
    with pytest.raises(StoreError, match=r"unit 000000 was made otherwise.*complement"):
        run_jobs(replace(copy, open_engine=Exact), [SCORE])
