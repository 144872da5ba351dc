"""Log-probs against a float64 oracle written from the definition of the softmax."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.logprobs import (
    Head,
    ScoreTensors,
    TopKTensors,
    reverse_kl,
    score_tokens,
    token_logprobs,
)


def top_k_of(scores: ScoreTensors) -> TopKTensors:
    assert scores.top_k is not None
    return scores.top_k


def oracle(hidden, weight, bias, ids, scale=1.0, cap=None):
    """log p = z_id - log sum_v exp z_v, one token and one id at a time, in Python floats."""
    rows = []
    for n in range(len(hidden)):
        z = [
            scale
            * (
                sum(float(h) * float(w) for h, w in zip(hidden[n], row, strict=True))
                + (float(bias[v]) if bias is not None else 0.0)
            )
            for v, row in enumerate(weight)
        ]
        z = z if cap is None else [cap * math.tanh(x / cap) for x in z]
        top = max(z)
        total = top + math.log(sum(math.exp(x - top) for x in z))
        rows.append([z[int(i)] - total for i in ids[n]])
    return torch.tensor(rows, dtype=torch.float64)


def tensors(seed: int, *, n: int = 7, d: int = 5, v: int = 11, k: int = 3):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, d, generator=generator, dtype=torch.float64) * 3
    weight = torch.randn(v, d, generator=generator, dtype=torch.float64)
    bias = torch.randn(v, generator=generator, dtype=torch.float64)
    ids = torch.stack([torch.randperm(v, generator=generator)[:k] for _ in range(n)])
    return hidden, weight, bias, ids


SHAPES = st.sampled_from([(1.0, None), (0.25, None), (1.0, 5.0), (2.0, 3.0)])  # (scale, cap)


@given(seed=st.integers(0, 10_000), chunk=st.integers(1, 9), biased=st.booleans(), shape=SHAPES)
@settings(max_examples=40, deadline=None)
def test_values_are_the_definition_whatever_the_chunk(seed, chunk, biased, shape):
    hidden, weight, bias, ids = tensors(seed)
    bias = bias if biased else None
    head, expected = Head(weight, bias, *shape), oracle(hidden, weight, bias, ids, *shape)
    ours = token_logprobs(hidden, head, ids, chunk=chunk)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    scored = score_tokens(hidden, head, ids[:, 0], at_ids_NK=ids, chunk=chunk)
    torch.testing.assert_close(top_k_of(scored).logp_NK, expected, rtol=1e-12, atol=1e-12)


@given(seed=st.integers(0, 10_000), chunk=st.integers(1, 9), shape=SHAPES)
@settings(max_examples=20, deadline=None)
def test_gradients_are_finite_differences(seed, chunk, shape):
    hidden, weight, bias, ids = tensors(seed, n=3, d=2, v=5, k=2)
    inputs = tuple(t.requires_grad_() for t in (hidden, weight, bias))
    assert torch.autograd.gradcheck(
        lambda h, w, b: token_logprobs(h, Head(w, b, *shape), ids, chunk=chunk), inputs
    )


def test_one_id_per_token_keeps_its_shape():
    hidden, weight, _, ids = tensors(1)
    flat = token_logprobs(hidden, Head(weight), ids[:, 0])
    assert flat.shape == (7,)
    torch.testing.assert_close(flat, token_logprobs(hidden, Head(weight), ids)[:, 0])


def test_bfloat16_inputs_lose_nothing_in_the_softmax():
    """Compared with float64 on the same rounded inputs, the error is that of float32."""
    hidden, weight, _, ids = tensors(2, n=40, d=64, v=500)
    hidden, weight = hidden.bfloat16(), weight.bfloat16()
    ours = token_logprobs(hidden, Head(weight), ids)
    exact = (hidden.double() @ weight.double().T).log_softmax(-1).gather(-1, ids)
    assert ours.dtype == torch.float32
    assert (ours.double() - exact).abs().max() < 1e-4
    rounded = (hidden @ weight.T).log_softmax(-1).gather(-1, ids)
    assert (rounded.double() - exact).abs().max() > 1e-2  # the error that the guard prevents


def test_a_whole_batch_of_logits_is_never_held(monkeypatch):
    hidden, weight, _, ids = tensors(3, n=64)
    seen = []
    import leyden.logprobs as module

    real = module.head_logits
    monkeypatch.setattr(module, "head_logits", lambda *a: seen.append(len(a[0])) or real(*a))
    hidden.requires_grad_()
    token_logprobs(hidden, Head(weight), ids, chunk=10).sum().backward()
    assert max(seen) == 10 and sum(seen) == 2 * 64  # forward once, backward once


@pytest.mark.parametrize("top_k", [1, 3, 10])
def test_scores_hold_entropy_topk_and_tail(top_k):
    hidden, weight, bias, ids = tensors(4)
    scores = score_tokens(hidden, Head(weight, bias), ids[:, 0], top_k=top_k, chunk=2)
    p = (hidden @ weight.T + bias).softmax(-1)
    entropy = -(p * p.log()).sum(-1)
    torch.testing.assert_close(scores.entropy_N, entropy)
    best = p.sort(-1, descending=True).values
    torch.testing.assert_close(top_k_of(scores).logp_NK.exp(), best[:, :top_k])
    torch.testing.assert_close(top_k_of(scores).tail_N.exp(), best[:, top_k:].sum(-1))


def test_the_tail_of_a_certain_model_is_not_rounded_away():
    """In float32, p = 1 - 1e-12 rounds to 1, so the tail is summed from its own logits."""
    weight = torch.tensor([[30.0], [0.0], [0.0]])
    scores = score_tokens(torch.ones(1, 1), Head(weight), torch.zeros(1).long(), top_k=1)
    assert top_k_of(scores).tail_N.item() == pytest.approx(math.log(2) - 30, abs=1e-5)


def test_scores_at_given_ids_equal_the_differentiable_path():
    hidden, weight, bias, ids = tensors(5)
    scores = score_tokens(hidden, Head(weight, bias), ids[:, 0], at_ids_NK=ids)
    torch.testing.assert_close(
        top_k_of(scores).logp_NK, token_logprobs(hidden, Head(weight, bias), ids)
    )


def test_reverse_kl_is_the_sum_over_the_vocabulary():
    hidden, weight, _, _ = tensors(6)
    other, heavier, _, _ = tensors(7, d=4)
    p, q = (hidden @ weight.T).softmax(-1), (other @ heavier.T).softmax(-1)
    ours = reverse_kl(hidden, Head(weight), other, Head(heavier), chunk=3)
    torch.testing.assert_close(ours, (p * (p / q).log()).sum(-1))
    assert reverse_kl(hidden, Head(weight), hidden, Head(weight)).abs().max() < 1e-12


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_a_common_offset_of_the_logits_costs_no_accuracy(offset):
    """Subtracting logsumexp from logits would round at the offset's scale: 5e-4 nats at 1e4.

    With weights and states that float32 holds exactly, only the softmax rounds."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randint(-8, 9, (11, 5), generator=generator).float() / 4
    hidden = torch.randint(-8, 9, (7, 5), generator=generator).float() / 4
    ids = torch.arange(7)[:, None] % 11
    bias = torch.full((11,), offset)
    ours = token_logprobs(hidden, Head(weight, bias), ids)
    torch.testing.assert_close(ours.double(), oracle(hidden, weight, None, ids), rtol=0, atol=2e-6)
    given = [t.clone().requires_grad_() for t in (hidden, weight)]
    exact = [t.double().requires_grad_() for t in (hidden, weight)]
    token_logprobs(given[0], Head(given[1], bias), ids).sum().backward()
    token_logprobs(exact[0], Head(exact[1]), ids).sum().backward()
    for a, b in zip(given, exact, strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=0, atol=1e-5)
