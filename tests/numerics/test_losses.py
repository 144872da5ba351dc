"""Losses against oracles written from the equations, in float64, term by term."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.losses import (
    importance_weights,
    sampled_loss,
    token_weights,
    topk_loss,
    topk_tail_loss,
)

logps = st.lists(st.floats(-20, 0), min_size=1, max_size=8)


@given(student=logps, teacher=logps, clip=st.floats(0.1, 12))
@settings(deadline=None)
def test_sampled_loss_is_huber_of_the_live_advantage(student, teacher, clip):
    n = min(len(student), len(teacher))
    s, t = student[:n], teacher[:n]
    result = sampled_loss(torch.tensor(s).double(), torch.tensor(t).double(), clip=clip)
    for i in range(n):
        a = t[i] - s[i]
        expected = a * a / 2 if abs(a) <= clip else clip * (abs(a) - clip / 2)
        assert result[i].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@given(student=logps, clip=st.floats(0.1, 12), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_its_gradient_is_the_papers_policy_gradient(student, clip, seed):
    """-clip(A, -tau, tau) grad log pi, with A detached, is the paper's update."""
    teacher = torch.randn(len(student), generator=torch.Generator().manual_seed(seed)).double() * 8
    logp = torch.tensor(student).double().requires_grad_()
    (result,) = torch.autograd.grad(sampled_loss(logp, teacher, clip=clip).sum(), logp)
    advantage = (teacher - logp).detach().clamp(-clip, clip)
    (expected,) = torch.autograd.grad((-advantage * logp).sum(), logp)
    torch.testing.assert_close(result, expected)


def distributions(seed: int, *, n: int = 5, v: int = 9):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(n, v, generator=generator, dtype=torch.float64).mul(2)
    teacher = torch.randn(n, v, generator=generator, dtype=torch.float64).mul(2).log_softmax(-1)
    return student, teacher, teacher.topk(4).indices


def test_topk_is_reverse_kl_of_both_renormalised():
    logits, teacher, ids = distributions(0)
    student = logits.log_softmax(-1)
    result = topk_loss(student.gather(-1, ids), teacher.gather(-1, ids))
    for n in range(len(ids)):
        p = [math.exp(student[n, i]) for i in ids[n]]
        q = [math.exp(teacher[n, i]) for i in ids[n]]
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert result[n].item() == pytest.approx(expected, abs=1e-12)


def test_topk_tail_has_one_bucket_for_the_rest():
    logits, teacher, ids = distributions(1)
    student = logits.log_softmax(-1)
    tail = (1 - teacher.gather(-1, ids).exp().sum(-1)).log()
    result = topk_tail_loss(student.gather(-1, ids), teacher.gather(-1, ids), tail)
    for n in range(len(ids)):
        p = [math.exp(student[n, i]) for i in ids[n]]
        q = [math.exp(teacher[n, i]) for i in ids[n]]
        p, q = [*p, 1 - sum(p)], [*q, 1 - sum(q)]
        expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert result[n].item() == pytest.approx(expected, abs=1e-10)


def full_kl(logits, teacher):
    student = logits.log_softmax(-1)
    return (student.exp() * (student - teacher)).sum(-1)


@given(seed=st.integers(0, 10_000))
@settings(deadline=None)
def test_the_tail_form_bounds_the_full_reverse_kl_from_below(seed):
    logits, teacher, ids = distributions(seed)
    tail = (1 - teacher.gather(-1, ids).exp().sum(-1)).log()
    student = logits.log_softmax(-1).gather(-1, ids)
    result = topk_tail_loss(student, teacher.gather(-1, ids), tail)
    assert (result <= full_kl(logits, teacher) + 1e-12).all() and (result >= -1e-12).all()


def test_tail_gradient_matches_full_kl_when_the_tail_is_one_token():
    """With k = V - 1 the bucket is the last token, so value and gradient are the full KL's."""
    logits, teacher, _ = distributions(2)
    ids = teacher.topk(8).indices
    tail = (1 - teacher.gather(-1, ids).exp().sum(-1)).log()

    def partial(z):
        chosen = z.log_softmax(-1).gather(-1, ids)
        return topk_tail_loss(chosen, teacher.gather(-1, ids), tail).sum()

    logits.requires_grad_()
    (result,) = torch.autograd.grad(partial(logits), logits)
    (expected,) = torch.autograd.grad(full_kl(logits, teacher).sum(), logits)
    torch.testing.assert_close(result, expected)


def test_a_student_certain_of_the_stored_ids_has_finite_gradients():
    logp = torch.tensor([[0.0, -30.0]], requires_grad=True)
    teacher = torch.tensor([[-0.5, -2.0]])
    topk_tail_loss(logp, teacher, torch.tensor([-1.4])).sum().backward()
    assert logp.grad is not None and torch.isfinite(logp.grad).all()


@pytest.mark.parametrize("kind", ["token", "prefix", "prefix_before", "sequence"])
def test_importance_weights_are_truncated_products(kind):
    generator = torch.Generator().manual_seed(3)
    lengths, cap = [4, 1, 6], 1.7
    logp = torch.randn(11, generator=generator).double()
    reference = torch.randn(11, generator=generator).double()
    sequence = torch.arange(3).repeat_interleave(torch.tensor(lengths))
    result = importance_weights(logp, reference, sequence, kind=kind, cap=cap)
    start, expected = 0, []
    for length in lengths:
        ratios = (logp - reference)[start : start + length].exp().tolist()
        for t in range(length):
            product = {
                "token": ratios[t],
                "prefix": math.prod(ratios[: t + 1]),
                "prefix_before": math.prod(ratios[:t]),
                "sequence": math.prod(ratios),
            }[kind]
            expected.append(min(product, cap))
        start += length
    torch.testing.assert_close(result, torch.tensor(expected).double())


def test_importance_weights_carry_no_gradient():
    logp = torch.zeros(3, requires_grad=True)
    weights = importance_weights(
        logp, torch.zeros(3), torch.tensor([0, 0, 0]), kind="token", cap=None
    )
    assert not weights.requires_grad


def test_reductions_are_the_three_means():
    values = [[1.0, 2.0, 6.0], [4.0]]
    lengths = torch.tensor([3, 3, 3, 1])
    flat = torch.tensor([v for row in values for v in row])
    expected = {
        "sequence_mean": ((1 + 2 + 6) / 3 + 4) / 2,
        "token_mean": 13 / 4,
        "sequence_sum": 13 / 2,
    }
    for reduction, value in expected.items():
        weights = token_weights(lengths, reduction=reduction, num_sequences=2, num_tokens=4)
        assert (weights * flat).sum().item() == pytest.approx(value)


def test_topk_tail_over_the_whole_vocabulary_is_the_whole_reverse_kl():
    """No mass is outside the ids, so the teacher's tail is -inf and the bucket is left out."""
    logits, teacher, _ = distributions(4)
    logits.requires_grad_()
    student = logits.log_softmax(-1)
    result = topk_tail_loss(student, teacher, torch.full((len(teacher),), -torch.inf).double())
    whole = (student.exp() * (student - teacher)).sum(-1)
    torch.testing.assert_close(result, whole)
    (mine,) = torch.autograd.grad(result.sum(), logits, retain_graph=True)
    (expected,) = torch.autograd.grad(whole.sum(), logits)
    torch.testing.assert_close(mine, expected)
