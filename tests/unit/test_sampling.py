"""Sampling: distribution and log-probs are right, and no row depends on another."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import random_model, random_sequences, sampled_by_engine
from leyden.engines.base import GenerateRequest
from leyden.engines.sampling import _nucleus, sample, uniforms
from leyden.engines.transformers import TransformersEngine
from leyden.recipe.sampling import Sampling
from leyden.recipe.schema import Execution


@given(
    seed=st.integers(0, 999),
    temperature=st.floats(0.2, 2.0),
    top_p=st.sampled_from([0.5, 0.9, 1.0]),
)
@settings(deadline=None, max_examples=30)
def test_draws_and_log_probs_follow_the_transformed_distribution(seed, temperature, top_p):
    """The oracle divides by the temperature, sorts, cuts at top_p, renormalises and inverts."""
    logits = torch.randn(6, generator=torch.Generator().manual_seed(seed)) * 2
    grid = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    ids, logp = sample(logits.expand(2000, -1), grid, temperature=temperature, top_p=top_p)
    z = np.exp(logits.double().numpy() / temperature)
    p = z / z.sum()
    order = np.argsort(-p)
    size = int(np.searchsorted(np.cumsum(p[order]), top_p * (1 - 1e-6))) + 1
    nucleus = np.zeros(6)
    nucleus[order[:size]] = p[order[:size]] / p[order[:size]].sum()
    share = np.bincount(ids.numpy(), minlength=6) / 2000
    np.testing.assert_allclose(share, nucleus, atol=2e-3)
    np.testing.assert_allclose(logp.exp().numpy(), nucleus[ids.numpy()], rtol=1e-4)


def test_a_row_does_not_depend_on_its_batch():
    model = random_model(7)
    prompts = [s.prompt_ids.tolist() for s in random_sequences(9, seed=7)]
    requests = [GenerateRequest(p, 100 + i) for i, p in enumerate(prompts)]
    result = []
    for size in (1, 4, 9):
        engine = TransformersEngine.around(model, Execution(generate_batch_size=size))
        result.append(sampled_by_engine(engine, requests, Sampling(max_new_tokens=15), [5, 6]))
    for other in result[1:]:
        for a, b in zip(result[0], other, strict=True):
            np.testing.assert_array_equal(a.ids, b.ids)
            np.testing.assert_allclose(a.logp, b.logp, atol=1e-6)


def test_uniforms_are_a_function_of_the_rows_own_seed():
    both = uniforms([3, 9], 5)
    np.testing.assert_array_equal(both[1], uniforms([9], 8)[0, :5])
    assert (both[0] != both[1]).all()


def nucleus_oracle(logp, top_p):
    """Sort stably by falling log-prob, keep tokens while the mass before them is below top_p."""
    order = np.argsort(-logp, kind="stable")
    mass = np.exp(logp[order].astype(np.float64))
    kept = order[np.cumsum(mass) - mass < top_p]
    nucleus = np.zeros(len(logp))
    nucleus[kept] = np.exp(logp[kept].astype(np.float64))
    return nucleus / nucleus.sum()


@given(seed=st.integers(0, 999), spread=st.floats(0, 6), top_p=st.sampled_from([0.3, 0.9, 0.99]))
@settings(deadline=None, max_examples=25)
def test_a_nucleus_of_any_size_is_that_of_a_whole_sort(seed, spread, top_p):
    """Flat rows need more than the likeliest ids, and rounded logits have ties at the edge."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(2, 3000, generator=generator) * spread).round(decimals=1)
    logp = logits.log_softmax(-1)
    computed = _nucleus(logp, top_p).exp().double().numpy()
    for row, values in zip(computed, logp.numpy(), strict=True):
        expected = nucleus_oracle(values, top_p)
        differ = (row > 0) != (expected > 0)  # only at a mass that rounds to top_p itself
        assert differ.sum() <= 1
        np.testing.assert_allclose(
            row, expected, rtol=2e-3, atol=1e-9 if not differ.any() else 1e-3
        )


def test_temperature_zero_takes_the_likeliest_token():
    logits = torch.tensor([[0.0, 2.0, 2.0, -1.0], [5.0, 1.0, 1.0, 1.0]])
    ids, logp = sample(logits, torch.tensor([0.999, 0.999]), temperature=0.0, top_p=1.0)
    assert ids.tolist() == [1, 0] and logp.tolist() == [0.0, 0.0]
    broken = torch.tensor([[torch.nan, 1.0]])
    assert torch.isnan(sample(broken, torch.tensor([0.5]), temperature=0.0, top_p=1.0)[1]).all()


def test_greedy_completions_do_not_depend_on_their_seed():
    engine = TransformersEngine.around(random_model(7), Execution())
    requests = [GenerateRequest([5, 6, 7], seed) for seed in range(3)]
    settings = Sampling(temperature=0.0, max_new_tokens=9)
    first, *others = sampled_by_engine(engine, requests, settings, [])
    assert all(other.ids.tolist() == first.ids.tolist() for other in others)
    assert not first.logp.any()
