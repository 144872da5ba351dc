"""Servers: true answers give the model's numbers; every kind of lie is refused by name."""

import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conftest import write_small_recipe
from leyden.engines import http
from leyden.engines.base import EngineSpec, Failed, GenerateRequest, ScoreRequest
from leyden.engines.server import ServerEngine
from leyden.errors import ConfigError, ConsistencyError, EngineError
from leyden.inference import selftest
from leyden.inference.units import all_results
from leyden.pipeline.pipeline import run_recipe
from leyden.recipe.engines import EngineChoice
from leyden.recipe.sampling import Sampling
from leyden.recipe.schema import Execution
from leyden.recipe.toml import load_recipe, parse_overrides
from leyden.run.run import Run
from leyden.run.stage import TEACH
from leyden.store.reader import open_store
from servers import running
from table_engine import STOP, table

APIS = ["vllm", "sglang"]


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(http, "PAUSES", (0.01, 0.05))


@pytest.fixture
def server():
    with running() as started:
        yield started


def engine_of(server, api: Any = "vllm", **fields: Any) -> ServerEngine:
    urls = fields.pop("urls", (server.url,))
    choice = EngineChoice(kind="server", urls=urls, api=api, in_flight=8, **fields)
    return ServerEngine(EngineSpec("teacher", "table", Execution(), 48, choice))


def proved(engine: ServerEngine, top_k: int = 0) -> selftest.Proof:
    """The engine's self-test on six prompts of different lengths."""
    engine.load()
    prompts = [np.random.default_rng(i).integers(2, 48, 20 + i).tolist() for i in range(6)]
    return selftest.prove(engine, engine.spec, prompts, [STOP], top_k)


def asked(top_k: int = 0, count: int = 40) -> list[ScoreRequest]:
    rng = np.random.default_rng(0)
    return [
        ScoreRequest(
            rng.integers(2, 48, 4).astype(np.int32),
            rng.integers(2, 48, rng.integers(1, 9)).astype(np.int32),
            top_k,
        )
        for _ in range(count)
    ]


def expected(request: ScoreRequest) -> np.ndarray:
    ids = [*request.prompt_ids, *request.completion_ids]
    start = len(request.prompt_ids)
    return table(0)[ids[start - 1 : -1], ids[start:]]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("top_k", [0, 5])
def test_scores_are_the_models(server, api, top_k):
    requests = asked(top_k)
    scores = all_results(engine_of(server, api).score(requests), len(requests))
    for index, request in enumerate(requests):
        np.testing.assert_allclose(scores[index].logp, expected(request), atol=1e-5)
        top = scores[index].top_k
        assert (top is not None) == bool(top_k)
        if top is not None:
            ids = [*request.prompt_ids, *request.completion_ids][len(request.prompt_ids) - 1 : -1]
            likeliest = np.sort(table(0)[ids], axis=-1)[:, ::-1][:, :top_k]
            np.testing.assert_allclose(top.logp, likeliest, atol=1e-5)
    assert 1 < server.served.most_at_once <= 8


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (0.0, 1.0)])
def test_samples_are_the_models(server, api, temperature, top_p):
    sampling = Sampling(temperature=temperature, top_p=top_p, max_new_tokens=9)
    requests = [GenerateRequest([5, 6, 7], seed) for seed in range(24)]
    made = all_results(engine_of(server, api).generate(requests, sampling, [STOP]), 24)
    again = all_results(engine_of(server, api).generate(requests[::-1], sampling, [STOP]), 24)
    for index in range(24):
        completion = made[index]
        np.testing.assert_array_equal(completion.ids, again[23 - index].ids)
        before = [7, *completion.ids[:-1]]
        logp = table(0)[before] / (temperature or 1)
        logp -= np.log(np.exp(logp).sum(-1, keepdims=True))
        true = logp[range(len(before)), completion.ids]
        np.testing.assert_allclose(completion.logp, true if temperature else 0 * true, atol=1e-5)
    assert {c.finish_reason for c in made} <= {"stop", "length"}


def test_two_addresses_share_the_work(server):
    with running() as other:
        scores = dict(engine_of(server, urls=(server.url, other.url)).score(asked()))
        assert len(scores) == 40 and min(server.served.asked, other.served.asked) > 10


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("null", "a log-prob is None"),
        ("unsaid", "-9999.0, which stands for one that it cannot say"),
        ("truncated", "it scored .* tokens of"),
        ("missing ids", "left out the log-probs of a token|names a token None"),
    ],
)
def test_an_answer_that_is_none_is_refused(server, api, fault, sentence):
    server.served.fault = fault
    with pytest.raises(EngineError, match=sentence):
        list(engine_of(server, api).score(asked()))


def test_tokens_that_are_words_are_refused(server):
    server.served.fault = "decoded keys"
    with pytest.raises(EngineError, match=r"names a token 'word\d+', which is no id"):
        list(engine_of(server).score(asked()))


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("shifted", "what it sampled, and says of it as a sampler, .* nats apart"),
        ("tempered", "what it sampled, and says of it as a sampler, .* nats apart"),
        ("zero", "certain of every token"),
        ("uniform", "gives every token the same score"),
    ],
)
def test_a_model_that_contradicts_itself_is_refused_before_anything_is_filled(
    server, api, fault, sentence
):
    server.served.fault = fault
    engine = engine_of(server, api)
    with pytest.raises(EngineError, match=sentence):
        proved(engine)


def test_an_honest_server_passes_and_its_noise_is_known(server):
    engine = engine_of(server)
    noise = proved(engine).noise
    assert noise.repeated == 0 and noise.company == 0
    assert noise.sampled is not None and noise.sampled < 1e-5 and noise.ours is None


@pytest.mark.parametrize("api", APIS)
def test_a_server_that_reads_another_prompt_is_refused(server, api):
    server.served.fault = "another prompt"
    with pytest.raises(EngineError, match=r"read a prompt of \d+ tokens, and was given"):
        list(engine_of(server, api).score(asked()))


def test_a_token_that_is_written_twice_is_refused(server):
    server.served.fault = "twice"
    with pytest.raises(EngineError, match=r"names a token '0\d+', which is no id"):
        list(engine_of(server).score(asked()))


def test_a_top_k_of_other_tokens_is_refused_before_anything_is_filled(server):
    server.served.fault = "worst top"
    engine = engine_of(server)
    with pytest.raises(EngineError, match="is likelier than one of the likeliest"):
        proved(engine, top_k=5)


def test_a_server_without_seeds_is_refused(server):
    server.served.fault = "one seed"
    engine = engine_of(server)
    with pytest.raises(EngineError, match="gives the same sample whatever the seed"):
        proved(engine)


def test_two_servers_of_different_models_are_refused(server):
    with running() as other:
        other.served.seed = 7
        with pytest.raises(EngineError, match="so they serve different models"):
            list(engine_of(server, urls=(server.url, other.url)).score(asked()))


def test_each_server_is_asked_which_log_probs_it_gives(server):
    with running() as other:
        other.served.fault = "raw"
        requests = [GenerateRequest([5, 6, 7], seed) for seed in range(4)]
        cold = Sampling(temperature=0.5, max_new_tokens=4)
        with pytest.raises(EngineError, match="as the model has them, not as temperature"):
            list(engine_of(server, urls=(server.url, other.url)).generate(requests, cold, [STOP]))


def test_the_other_server_goes_on_where_one_has_died(server, monkeypatch):
    monkeypatch.setattr(http, "FIRST_TRIES", 1)
    with running() as other:
        engine = engine_of(server, urls=(server.url, other.url))
        engine.load()
        other.served.fault = "dead"
        scores = all_results(engine.score(asked()), 40)
    for index, request in enumerate(asked()):
        np.testing.assert_allclose(scores[index].logp, expected(request), atol=1e-5)


def test_an_error_does_not_wait_for_questions_that_hang(server):
    engine = engine_of(server)
    engine.load()
    server.served.fault = "slow"
    results = engine.score(asked())
    began = time.monotonic()
    threading.Timer(0.2, lambda: setattr(server.served, "fault", "null")).start()
    with pytest.raises(EngineError):
        list(results)
    assert time.monotonic() - began < 3.5  # the first eight questions take three seconds


@pytest.mark.parametrize("resumed", [False, True])
def test_what_another_model_said_is_never_committed(server, tmp_path, monkeypatch, resumed):
    """It takes the place of the first in the middle of a stage, or while nobody works."""
    monkeypatch.setattr(selftest, "OURS_AT_MOST", 0)
    flags = ["--engines.teacher.kind", "server", "--engines.teacher.urls", f'["{server.url}"]']
    flags += ["--execution.rows-per-unit", "4", "--engines.teacher.in-flight", "4"]
    run = Run(tmp_path / "run", load_recipe(write_small_recipe(tmp_path), parse_overrides(flags)))
    run_recipe(run, until="prompts")
    monkeypatch.setattr("leyden.engines.server.HELD", 6)
    server.served.restart_after = 60
    with pytest.raises(EngineError, match="another model answers"):
        run_recipe(run, until="teach")
    assert server.served.seed == 0 and list((run.folder(TEACH) / "commits").iterdir())
    server.served.restart_after = 0
    if resumed:
        server.served.seed = 1
        with pytest.raises(ConsistencyError, match="so it runs another model"):
            run_recipe(run, until="teach")
        server.served.seed = 0
    run_recipe(run, until="teach")
    for row in open_store(run.folder(TEACH)):
        before = [row["prompt_ids"][-1], *row["completion_ids"][:-1]]
        true = table(0)[before, row["completion_ids"]]
        np.testing.assert_allclose(row["logp_sampler"], true, atol=1e-5)


@pytest.mark.parametrize("api", APIS)
def test_log_probs_without_the_temperature_are_refused_where_there_is_one(server, api):
    server.served.fault = "raw"
    requests = [GenerateRequest([5, 6, 7], seed) for seed in range(4)]
    plain = dict(engine_of(server, api).generate(requests, Sampling(max_new_tokens=4), [STOP]))
    assert len(plain) == 4  # at temperature 1 the two are one
    with pytest.raises(EngineError, match=r"as the model has them, not as temperature 0\.7"):
        cold = Sampling(temperature=0.7, max_new_tokens=4)
        list(engine_of(server, api).generate(requests, cold, [STOP]))


@pytest.mark.parametrize("fault", ["busy", "dying"])
def test_busy_servers_and_broken_connections_are_asked_again(server, fault):
    server.served.fault = fault
    scores = all_results(engine_of(server).score(asked()), len(asked()))
    for index, request in enumerate(asked()):
        np.testing.assert_allclose(scores[index].logp, expected(request), atol=1e-5)


def test_another_model_after_a_restart_is_noticed(server):
    server.served.fault = "restarted"
    with pytest.raises(EngineError, match="another model answers"):
        list(engine_of(server).score(asked(count=60)))


def test_a_server_that_answers_nothing_any_more_ends_the_stage(server):
    engine = engine_of(server)
    results = engine.score(asked(count=200))
    next(results)
    server.served.fault = "dead"
    with pytest.raises(EngineError, match=r"got no answer|cannot score"):
        for _ in results:
            pass


def test_a_row_over_its_deadline_is_given_up(server, monkeypatch):
    monkeypatch.setattr(http, "TRIES", 2)
    engine = engine_of(server, row_seconds=1)
    engine.load()
    server.served.fault = "slow"
    monkeypatch.setattr(engine, "_check_same_model", lambda: None)  # it is slow there too
    number, result = next(engine.score(asked(count=1)))
    assert number == 0 and isinstance(result, Failed) and "ReadTimeout" in result.why


def test_no_server_is_an_error_before_anything_begins(tmp_path):
    with running() as server:
        gone = server.url
    flags = ["--engines.teacher.kind", "server", "--engines.teacher.urls", f'["{gone}"]']
    run = Run(tmp_path / "run", load_recipe(write_small_recipe(tmp_path), parse_overrides(flags)))
    with pytest.raises(EngineError, match="no server answers"):
        run_recipe(run, until="teach")
    assert not (run.root / "teach").exists()


def test_a_stage_is_filled_from_a_server(server, tmp_path, monkeypatch):
    """The table has the size of the tiny vocabulary, so it can play a teacher whose weights are
    too large to be loaded here."""
    monkeypatch.setattr(selftest, "OURS_AT_MOST", 0)
    flags = ["--engines.teacher.kind", "server", "--engines.teacher.urls", f'["{server.url}"]']
    run = Run(tmp_path / "run", load_recipe(write_small_recipe(tmp_path), parse_overrides(flags)))
    run_recipe(run, until="teach")
    for row in open_store(run.folder(TEACH)):
        before = [row["prompt_ids"][-1], *row["completion_ids"][:-1]]
        np.testing.assert_allclose(
            row["logp_sampler"], table(0)[before, row["completion_ids"]], atol=1e-5
        )


def test_a_server_of_another_model_than_the_recipes_is_refused_where_that_fits(server, tmp_path):
    flags = ["--engines.teacher.kind", "server", "--engines.teacher.urls", f'["{server.url}"]']
    run = Run(tmp_path / "run", load_recipe(write_small_recipe(tmp_path), parse_overrides(flags)))
    with pytest.raises(EngineError, match=r"and our own forward pass, .* nats apart, over"):
        run_recipe(run, until="teach")
    assert not list((run.root / "teach").glob("commits/*"))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"kind": "server"}, "needs urls"),
        ({"kind": "vllm", "urls": ["http://a"]}, "urls is no setting of kind = 'vllm'"),
        ({"memory": 0.5}, "memory is no setting of kind = 'transformers'"),
        ({"kind": "server", "urls": ["localhost:8000"]}, "does not begin with http"),
    ],
)
def test_settings_of_another_kind_are_refused(tmp_path, fields, sentence):
    flags = []
    for name, value in fields.items():
        text = str(value).replace("'", '"') if isinstance(value, list) else str(value)
        flags += [f"--engines.teacher.{name}", text]
    with pytest.raises(ConfigError, match=sentence):
        load_recipe(write_small_recipe(tmp_path), parse_overrides(flags))


def test_a_server_whose_name_is_not_that_of_the_recipe_is_refused(server):
    engine = engine_of(server, served_model="another")
    with pytest.raises(EngineError, match="serves the-model, and the recipe asks for another"):
        engine.numerics()
    assert replace(engine.spec).choice.served_model == "another"
