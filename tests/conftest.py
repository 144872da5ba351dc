"""Shared fixtures: the shipped tiny models, small random models, and one finished small run."""

import importlib.util
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from leyden.data.sequences import TeacherColumns, TokenSequence
from leyden.engines.base import ScoreRequest
from leyden.provenance.records import Record, require_record
from leyden.sandbox.backends import bubblewrap

BACKEND = bubblewrap()
needs_bubblewrap = pytest.mark.skipif(
    isinstance(BACKEND, str), reason=f"no bubblewrap here: {BACKEND}"
)
ROOT = Path(__file__).parents[1]
MODELS = ROOT / "examples" / "tiny" / "models"
VOCAB = 48


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def random_model(seed: int = 0) -> LlamaForCausalLM:
    """A Llama with weights large enough for peaked, varied distributions."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.4,
    )
    config._attn_implementation = "sdpa"
    return LlamaForCausalLM(config).double().eval()


def random_sequences(count: int, seed: int = 0, *, longest: int = 12) -> list[TokenSequence]:
    """Ragged sequences, the first with a one-token completion."""
    rng = np.random.default_rng(seed)
    lengths = [(3, 1), *((rng.integers(1, 9), rng.integers(1, longest)) for _ in range(count - 1))]
    return [
        TokenSequence(
            rng.integers(4, VOCAB, p).astype(np.int32), rng.integers(4, VOCAB, c).astype(np.int32)
        )
        for p, c in lengths
    ]


def scored_by_engine(engine, sequences: Sequence[TokenSequence], top_k: int = 0):
    """An engine's scores of every sequence, in order."""
    requests = [ScoreRequest(s.prompt_ids, s.completion_ids, top_k) for s in sequences]
    by_index = dict(engine.score(requests))
    return [by_index[i] for i in range(len(sequences))]


def sampled_by_engine(engine, requests, sampling, stop_ids):
    """An engine's completion of every request, in order."""
    by_index = dict(engine.generate(requests, sampling, stop_ids))
    return [by_index[i] for i in range(len(requests))]


def module_at(path: Path) -> ModuleType:
    """Import the module in a file outside of any package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look a class's module up there
    spec.loader.exec_module(module)
    return module


def gradients(model: torch.nn.Module) -> torch.Tensor:
    """All gradients of a model in one vector."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def record_of(folder: Path) -> Record:
    return require_record(folder, reader="this test")


def columns_of(sequence: TokenSequence) -> TeacherColumns[np.ndarray]:
    assert sequence.columns is not None
    return sequence.columns


SMALL = """
name = "small"
seed = 5
[models]
teacher = "{models}/teacher"
base = "{models}/base"
[prompts]
heldout = 8
sft = {{ file = "{prompts}/sft.jsonl", id_field = "id", limit = 24 }}
opd = {{ file = "{prompts}/opd.jsonl", id_field = "id", limit = 40 }}
[teach]
max_new_tokens = 64
[sft]
steps = 6
batch_size = 8
learning_rate = 3e-4
checkpoint_every = 2
[rollout]
temperature = 1.0
max_new_tokens = 64
[score]
top_k = 4
[distill]
steps = 6
batch_size = 8
checkpoint_every = 2
eval_every = 3
[distill.arms.sampled]
learning_rate = 1e-4
[distill.arms.tail]
objective = "topk_tail"
learning_rate = 3e-4
[distill.arms.live]
learning_rate = 1e-4
refresh_every = 3
[distill.arms.control]
objective = "sft"
[evaluate]
kl_prompts = 4
kl_max_new_tokens = 64
[[evaluate.benchmarks]]
name = "sums"
grader = "{root}/examples/tiny/task.py:grade"
max_new_tokens = 64
temperature = 1.0
top_p = 1.0
problems = {{ file = "{prompts}/test.jsonl", id_field = "id", limit = 8 }}
[execution]
device = "cpu"
threads = 1
rows_per_unit = 8
"""


def write_small_recipe(folder: Path) -> Path:
    """Write the small recipe with its own copy of the models, which a test may damage."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(MODELS, folder / "models")
    path = folder / "small.toml"
    prompts = ROOT / "examples" / "tiny" / "prompts"
    path.write_text(SMALL.format(models=folder / "models", prompts=prompts, root=ROOT))
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A folder with small.toml, models/ and the finished run/; copy it before changing it."""
    from leyden.cli.main import run

    folder = tmp_path_factory.mktemp("finished")
    recipe = write_small_recipe(folder)
    assert run(["run", str(recipe), "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A private copy of the finished folder, its recipe pointing into the copy."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    for file in (folder / "small.toml", folder / "run" / "recipe.toml"):
        file.write_text(file.read_text().replace(str(finished), str(folder)))
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Give every test an empty cache, so that none uses another test's grades."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
