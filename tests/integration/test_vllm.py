"""vLLM itself, where an interpreter has it (`make test-vllm`): its log-probs are our forward's."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from conftest import MODELS, write_small_recipe
from leyden.engines.base import (
    Completion,
    EngineSpec,
    Failed,
    GenerateRequest,
    ScoreRequest,
    TokenScores,
)
from leyden.engines.server import ServerEngine
from leyden.engines.transformers import TransformersEngine
from leyden.engines.vllm import VllmEngine
from leyden.errors import EngineError
from leyden.inference.selftest import prove
from leyden.pipeline.pipeline import run_recipe
from leyden.recipe.engines import EngineChoice
from leyden.recipe.sampling import Sampling
from leyden.recipe.schema import Execution
from leyden.recipe.toml import load_recipe, parse_overrides
from leyden.run.graph import resolve
from leyden.run.run import TEACHER, Run
from leyden.run.stage import ROLLOUT, SCORE
from leyden.store.reader import open_store
from leyden.store.schema import teacher_tail

PYTHON = os.environ.get("LEYDEN_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="LEYDEN_VLLM_PYTHON names no interpreter with vLLM"),
    pytest.mark.timeout(600),
]
SIZE, STOPS = 128, [1, 7]
CHOICE = EngineChoice(
    kind="vllm", python=PYTHON or None, sequences=16, context=256, batched_tokens=512,
    stall_seconds=60,
)  # fmt: skip
EXECUTION = Execution(device="cpu")
CLOSE = 1e-4  # nats, in float32


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model of the smallest shape that vLLM runs on a CPU."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=SIZE, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, max_position_embeddings=256,
        initializer_range=0.3, bos_token_id=2, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    place = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(place)
    return place


def open_vllm(folder: Path, **changes) -> VllmEngine:
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    choice = CHOICE.model_copy(update=changes)
    return VllmEngine(EngineSpec("teacher", str(folder), EXECUTION, SIZE, choice))


@pytest.fixture(scope="module")
def engine(folder):
    opened = open_vllm(folder)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def ours(folder) -> TransformersEngine:
    return TransformersEngine(EngineSpec("teacher", str(folder), EXECUTION, SIZE))


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    """vLLM's own server on loopback, over the same model, with any tokenizer."""
    place = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(folder, place)
    for path in (MODELS / "teacher").glob("tokenizer*"):
        shutil.copy(path, place)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(place),
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32",
        "--logprobs-mode", "processed_logprobs", "--max-model-len", "256",
        "--max-num-batched-tokens", "512", "--max-num-seqs", "16", "--enforce-eager",
        "--no-enable-chunked-prefill", "--no-enable-prefix-caching", "--generation-config", "vllm",
    ]  # fmt: skip
    log = open(place / "log", "wb")  # noqa: SIM115
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    process = subprocess.Popen(
        command, stdout=log, stderr=log, start_new_session=True, env=environment
    )
    try:
        until = time.monotonic() + 180
        while time.monotonic() < until and process.poll() is None:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2),
            ):
                break
            time.sleep(1)
        else:
            pytest.fail((place / "log").read_text()[-3000:])
        choice = EngineChoice(kind="server", urls=(f"http://127.0.0.1:{port}",), in_flight=8)
        yield ServerEngine(EngineSpec("teacher", str(folder), EXECUTION, SIZE, choice))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def prompts(count: int = 12) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(8, SIZE, rng.integers(1, 20)).tolist() for _ in range(count)]


def made_by(engine, sampling: Sampling, asked: list[GenerateRequest]) -> list[Completion]:
    made = dict(engine.generate(asked, sampling, STOPS))
    completions = [made[i] for i in range(len(asked))]
    assert all(isinstance(c, Completion) for c in completions), completions
    return completions


def scores_by(engine, asked: list[ScoreRequest]) -> list[TokenScores]:
    made = dict(engine.score(asked))
    return [made[i] for i in range(len(asked))]


def score_requests(top_k: int = 0) -> list[ScoreRequest]:
    rng = np.random.default_rng(2)
    return [
        ScoreRequest(np.array(p, np.int32), rng.integers(0, SIZE, n).astype(np.int32), top_k)
        for n, p in enumerate(prompts(), 1)
    ]


@pytest.fixture(params=["child", "server"])
def either(request, engine):
    """vLLM in our child process, and vLLM behind its own server."""
    return engine if request.param == "child" else request.getfixturevalue("server")


@pytest.mark.parametrize("top_k", [0, 5])
def test_scores_are_those_of_our_forward(either, ours, top_k):
    engine = either
    for a, b in zip(
        scores_by(engine, score_requests(top_k)),
        scores_by(ours, score_requests(top_k)),
        strict=True,
    ):
        np.testing.assert_allclose(a.logp, b.logp, atol=CLOSE)
        if top_k:
            assert a.top_k is not None and b.top_k is not None
            np.testing.assert_array_equal(a.top_k.ids, b.top_k.ids)
            np.testing.assert_allclose(a.top_k.logp, b.top_k.logp, atol=CLOSE)
            np.testing.assert_allclose(a.top_k.tail, b.top_k.tail, atol=1e-2)
            assert (a.top_k.tail_is, b.top_k.tail_is) == ("complement", "exact")


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.8), (0.0, 1.0)])
def test_samples_have_the_log_probs_of_our_sampler(either, ours, temperature, top_p):
    """The log-prob of each sampled token under temperature and nucleus, from our own forward."""
    from leyden.engines.sampling import _nucleus
    from leyden.logprobs import head_logits

    sampling = Sampling(temperature=temperature, top_p=top_p, max_new_tokens=24)
    asked = [GenerateRequest(p, seed) for seed, p in enumerate(prompts())]
    for request, completion in zip(asked, made_by(either, sampling, asked), strict=True):
        ids = torch.tensor([*request.prompt_ids, *completion.ids.tolist()])
        model = ours.loaded.model
        with torch.no_grad():
            states = model.model(input_ids=ids[None]).last_hidden_state[0]
            logits = head_logits(states, ours.loaded.head)[len(request.prompt_ids) - 1 : -1]
        if temperature == 0:
            assert logits.argmax(-1).tolist() == completion.ids.tolist()
            assert not completion.logp.any()
            continue
        logp = (logits / temperature).log_softmax(-1)
        logp = _nucleus(logp, top_p) if top_p < 1 else logp
        expected = logp.gather(-1, ids[len(request.prompt_ids) :, None])[:, 0]
        np.testing.assert_allclose(completion.logp, expected, atol=5 * CLOSE)


def test_a_completion_ends_with_its_stop_token_or_at_the_cap(either):
    asked = [GenerateRequest(p, seed) for seed, p in enumerate(prompts() * 4)]
    completions = made_by(either, Sampling(max_new_tokens=40), asked)
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for completion in completions:
        stops = np.flatnonzero(np.isin(completion.ids, STOPS)).tolist()
        stopped = completion.finish_reason == "stop"
        assert stops == ([len(completion.ids) - 1] if stopped else [])
        assert stopped or len(completion.ids) == 40
        assert len(completion.logp) == len(completion.ids)


def test_seeds_decide_whatever_the_order_and_the_company(either):
    engine = either
    asked = [GenerateRequest(p, seed) for seed, p in enumerate(prompts())]
    sampling = Sampling(max_new_tokens=24)
    first = made_by(engine, sampling, asked)
    again = made_by(engine, sampling, asked[::-1])[::-1]
    few = made_by(engine, sampling, asked[:2])
    for a, b in [*zip(first, again, strict=True), *zip(first, few, strict=False)]:
        np.testing.assert_array_equal(a.ids, b.ids)
    assert len({tuple(c.ids) for c in made_by(engine, sampling, [
        GenerateRequest(prompts()[0], seed) for seed in range(8)
    ])}) > 4  # fmt: skip


def test_both_pass_the_self_test(either):
    texts = [np.random.default_rng(i).integers(8, SIZE, 20 + i).tolist() for i in range(6)]
    either.load()
    noise = prove(either, either.spec, texts, STOPS, 5).noise
    assert noise.ours is not None and noise.ours < CLOSE
    assert noise.repeated is not None and noise.repeated < CLOSE


def test_numerics_are_those_of_the_interpreter_that_computes(engine):
    import transformers

    numerics = engine.numerics()
    assert numerics["engine"] == "vllm" and numerics["vllm"].startswith("0.")
    command = [PYTHON, "-c", "import transformers; print(transformers.__version__)"]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert numerics["transformers"] == theirs
    assert transformers.__version__  # ours may be another


def test_a_prompt_over_the_context_is_that_rows_alone(either):
    engine = either
    asked = [GenerateRequest([9] * 300, 0), GenerateRequest([9] * 5, 1)]
    made = dict(engine.generate(asked, Sampling(max_new_tokens=4), STOPS))
    assert isinstance(made[0], Failed) and isinstance(made[1], Completion)


def test_a_run_samples_and_scores_with_vllm(tmp_path, monkeypatch):
    """Teacher and student in vLLM; the stored scores are those of our forward."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    recipe = write_small_recipe(tmp_path)
    for seed, role in enumerate(("teacher", "base")):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=48, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=32, max_position_embeddings=256,
            initializer_range=0.2, bos_token_id=None, eos_token_id=1, pad_token_id=0,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        for name in ("config.json", "model.safetensors"):
            (tmp_path / "models" / role / name).unlink()
        model.save_pretrained(tmp_path / "models" / role)
    chosen = ["kind", "vllm", "python", PYTHON, "sequences", "16", "context", "256"]
    flags = ["--sft.keep-truncated", "true"]
    for role in ("teacher", "student"):
        for name, value in zip(chosen[::2], chosen[1::2], strict=True):
            flags += [f"--engines.{role}.{name}", value]
    run = Run(tmp_path / "run", load_recipe(recipe, parse_overrides(flags)))
    run_recipe(run, until="score")
    rollouts, scores = open_store(run.folder(ROLLOUT)), open_store(run.folder(SCORE))
    ours = TransformersEngine(EngineSpec("teacher", run.address(TEACHER), EXECUTION, 48))
    asked = [ScoreRequest(r["prompt_ids"], r["completion_ids"]) for r in rollouts]
    for score, expected in zip(scores, scores_by(ours, asked), strict=True):
        np.testing.assert_allclose(score["logp_teacher"], expected.logp, atol=5 * CLOSE)
    assert teacher_tail(scores.schema) == "complement"
    record = resolve(run).record(SCORE)
    assert record is not None
    (engine,) = record.environment["engines"]
    assert engine["numerics"]["engine"] == "vllm" and engine["noise"]["ours"] < CLOSE
    assert record.intent.numerics["reference"]["engine"] == "transformers"


def group_of(engine: VllmEngine) -> int:
    assert engine.process.child is not None
    return engine.process.child.group


def processes_of(group: int) -> list[int]:
    """Living processes of a group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def gone(group: int, seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while processes_of(group) and time.monotonic() < until:
        time.sleep(0.1)
    return not processes_of(group)


@pytest.mark.parametrize("which", ["guard", "worker"])
def test_a_killed_process_is_started_again_and_nothing_is_lost(folder, engine, which):
    asked = [GenerateRequest(p, seed) for seed, p in enumerate(prompts() * 8)]
    expected = made_by(engine, Sampling(max_new_tokens=60), asked)
    other, made, groups = open_vllm(folder), {}, []
    for index, completion in other.generate(asked, Sampling(max_new_tokens=60), STOPS):
        made[index] = completion
        if not groups:
            groups.append(group_of(other))
            members = processes_of(groups[0])
            worker = next(pid for pid in members if pid != groups[0])
            os.kill(groups[0] if which == "guard" else worker, signal.SIGKILL)
    assert group_of(other) != groups[0] and other.process.scale == 2
    for index, completion in enumerate(expected):
        np.testing.assert_array_equal(made[index].ids, completion.ids)
    last = group_of(other)
    other.close()
    assert gone(groups[0]) and gone(last)


def test_no_child_survives_a_parent_that_is_killed(folder, tmp_path):
    code = f"""
import sys, time
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from test_vllm import group_of, open_vllm
engine = open_vllm({str(folder)!r})
engine.load()
print(group_of(engine), flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    group = int(parent.stdout.readline())
    assert len(processes_of(group)) >= 2
    parent.kill()
    parent.wait()
    assert gone(group)


def test_a_process_that_hangs_is_ended_and_started_again(folder):
    other = open_vllm(folder, stall_seconds=8)
    asked = [GenerateRequest(p, seed) for seed, p in enumerate(prompts() * 8)]
    made, stopped = {}, []
    for index, completion in other.generate(asked, Sampling(max_new_tokens=60), STOPS):
        made[index] = completion
        if not stopped:
            stopped.append(group_of(other))
            for pid in processes_of(group_of(other)):
                os.kill(pid, signal.SIGSTOP)
    assert len(made) == len(asked) and all(isinstance(c, Completion) for c in made.values())
    other.close()
    assert gone(stopped[0])


def test_arguments_that_this_version_does_not_know_are_refused(folder):
    other = open_vllm(folder, options={"no_such_argument": 1})
    with pytest.raises(EngineError, match="does not know no_such_argument"):
        other.load()
