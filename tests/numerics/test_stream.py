"""A stream of prompts through one batch: the tokens are those of each prompt alone, whatever leaves
the batch, joins it, or does not fit into memory."""

import numpy as np
import pytest
import torch
from test_architectures import HYBRIDS, PLAIN, load, make

from leyden.engines import stream
from leyden.engines.base import Completion, GenerateRequest
from leyden.engines.batching import batching_of
from leyden.engines.cached import Decoding
from leyden.engines.kv_cache import GrowingLayer
from leyden.engines.transformers import TransformersEngine
from leyden.errors import EngineError
from leyden.recipe.sampling import Sampling
from leyden.recipe.schema import Execution

CAP, STOPS = Sampling(max_new_tokens=24), [1, 2, 3, 4]


def requests(count: int, *, groups: int = 1) -> list[GenerateRequest]:
    """Prompts of 1 to 30 tokens, in groups of equal size."""
    rng = np.random.default_rng(0)
    return [
        GenerateRequest(
            rng.integers(5, 48, rng.integers(1, 31)).tolist(), seed, seed * groups // count
        )
        for seed in range(count)
    ]


def sample(model, asked, **execution) -> list[Completion]:
    engine = TransformersEngine.around(model, Execution(**execution))
    made = dict(engine.generate(asked, CAP, STOPS))
    return [made[i] for i in range(len(asked))]


def assert_same(ours: list[Completion], theirs: list[Completion]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a.ids.tolist(), a.finish_reason) == (b.ids.tolist(), b.finish_reason)
        np.testing.assert_allclose(a.logp, b.logp, atol=1e-4)


@pytest.mark.parametrize("kind", [*PLAIN, "qwen3_5_text"])
@pytest.mark.parametrize("places", [2, 7, 64])
def test_a_row_has_the_tokens_that_it_has_alone(tmp_path, kind, places):
    model = load(make(tmp_path, kind, (PLAIN | HYBRIDS)[kind]))
    assert batching_of(model).joins == (kind in PLAIN)
    alone = sample(model, requests(24), generate_batch_size=1)
    assert len({len(made.ids) for made in alone}) > 5
    assert_same(sample(model, requests(24), generate_batch_size=places), alone)


def test_places_are_filled_again_within_a_unit_or_from_the_whole_stage(tmp_path, monkeypatch):
    model, widths = load(make(tmp_path, "llama", {})), list[int]()
    real = Decoding.advance

    def advance(self, next_B, going):
        widths.append(len(going))
        real(self, next_B, going)

    monkeypatch.setattr(Decoding, "advance", advance)
    asked, fill = requests(48, groups=6), {}
    unit = sample(model, asked, generate_batch_size=8, refill="unit")
    fill["unit"] = np.mean(widths) / 8
    widths.clear()
    assert_same(unit, sample(model, asked, generate_batch_size=8, refill="stage"))
    fill["stage"] = np.mean(widths) / 8
    assert fill["stage"] > 0.75 > fill["unit"]


def test_a_unit_has_the_same_bits_whatever_else_is_asked_for(tmp_path):
    model, asked = load(make(tmp_path, "llama", {})), requests(40, groups=2)
    whole = sample(model, asked, generate_batch_size=8)
    part = sample(model, asked[20:], generate_batch_size=8)
    for a, b in zip(whole[20:], part, strict=True):
        np.testing.assert_array_equal(a.logp, b.logp)


def test_a_cache_that_does_not_fit_holds_fewer_rows(tmp_path, monkeypatch):
    model = load(make(tmp_path, "llama", {}))
    alone, used = sample(model, requests(24), generate_batch_size=1), []
    monkeypatch.setattr(stream, "tokens_that_fit", lambda device, size: 120)
    real = Decoding._read
    monkeypatch.setattr(
        Decoding, "_read", lambda self, *a: used.append(self.mask_BT.numel()) or real(self, *a)
    )
    assert_same(sample(model, requests(24), generate_batch_size=8), alone)
    assert 60 < max(used) <= 120


@pytest.mark.parametrize("where", ["advance", "begin", "join"])
def test_a_batch_that_was_too_large_for_memory_is_begun_again_in_halves(
    tmp_path, monkeypatch, where
):
    model = load(make(tmp_path, "llama", {}))
    alone, failed = sample(model, requests(24), generate_batch_size=1), []
    real = getattr(Decoding, where)

    def limited(*arguments, **named):
        width = len(arguments[2]) if where == "begin" else len(arguments[0].rows)
        if width > 3:
            failed.append(width)
            raise torch.OutOfMemoryError("out of memory")
        return real(*arguments, **named)

    monkeypatch.setattr(Decoding, where, limited)
    assert_same(sample(model, requests(24), generate_batch_size=8), alone)
    assert failed and len(failed) < 8


def test_memory_for_not_one_row_is_an_error(tmp_path, monkeypatch):
    model = load(make(tmp_path, "llama", {}))
    batching_of(model)

    def full(*arguments):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Decoding, "advance", full)
    with pytest.raises(EngineError, match="not enough memory for one row"):
        sample(model, requests(4), generate_batch_size=2)


def test_samples_of_one_prompt_share_its_prefill(tmp_path, monkeypatch):
    model = load(make(tmp_path, "llama", {}))
    batching_of(model)
    asked = [GenerateRequest([5, 6, 7, 8], seed) for seed in range(6)]
    alone, read = sample(model, asked, generate_batch_size=1), []
    real = Decoding._read
    monkeypatch.setattr(
        Decoding, "_read", lambda self, ids, *a: read.append(ids.shape) or real(self, ids, *a)
    )
    assert_same(sample(model, asked, generate_batch_size=6), alone)
    assert read[0] == (1, 4)


def test_a_layer_keeps_its_columns_wherever_they_are_moved():
    layer, rng = GrowingLayer(), np.random.default_rng(0)
    expected = torch.zeros(3, 2, 0, 4)
    for _ in range(400):
        new = torch.from_numpy(rng.normal(size=(expected.shape[0], 2, 1, 4)))
        keys, values = layer.update(new, -new)
        expected = torch.cat([expected, new], 2)
        assert torch.equal(keys, expected) and torch.equal(values, -expected)
        if expected.shape[0] > 2 and rng.random() < 0.3:
            kept = [i for i in range(expected.shape[0]) if i != rng.integers(expected.shape[0])]
            layer.batch_select_indices(torch.tensor(kept))
            expected = expected[kept]
        if rng.random() < 0.3:
            joining = GrowingLayer()
            more = torch.from_numpy(rng.normal(size=(2, 2, int(rng.integers(1, 90)), 4)))
            joining.update(more, -more)
            layer.join(joining)
            width = max(expected.shape[2], more.shape[2])
            # What is before a row's first column is hidden by the mask; only the rest must be kept.
            padded = [
                torch.nn.functional.pad(part, (0, 0, width - part.shape[2], 0), value=torch.nan)
                for part in (expected, more)
            ]
            expected = torch.cat(padded)
            known, (keys, _) = ~expected.isnan(), layer._show()
            assert torch.equal(keys[known], expected[known])
            expected = keys.clone()
        if expected.shape[2] > 60 and rng.random() < 0.5:
            layer.forget(30)
            expected = expected[:, :, 30:]
    assert layer._whole[0].shape[2] < 400
