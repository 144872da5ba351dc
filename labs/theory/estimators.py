"""Every estimator of the method as an exact loss, and training by full gradients."""

from collections.abc import Callable

import torch
from torch import Tensor

from enumeration import Family, Policy, prefix_logp, visits

TAU, TOKEN_CAP, PREFIX_CAP = 10.0, 2.0, 3.0

Loss = Callable[[Policy, Policy, Policy], Tensor]
"""(student, teacher, the policy that wrote the rollouts) -> a value whose gradient is descended."""


def huber(value: Tensor, clip: float) -> Tensor:
    size = value.abs()
    return torch.where(size <= clip, value**2 / 2, clip * (size - clip / 2))


def sampled(*, clip: float = TAU, importance: str = "none") -> Loss:
    """The paper's loss at the writer's own tokens; weights are detached."""

    def loss(student: Policy, teacher: Policy, writer: Policy) -> Tensor:
        reach, written = prefix_logp(student), prefix_logp(writer)
        total = torch.zeros(())
        for t, visit in enumerate(visits(writer)):
            log_ratio = (student[t] - writer[t]).detach()
            weight = torch.ones_like(visit)
            if importance == "token":
                weight = log_ratio.exp().clamp_max(TOKEN_CAP)
            elif importance == "prefix":
                before = (reach[t] - written[t]).detach()[:, None]
                weight = (before + log_ratio).exp().clamp_max(PREFIX_CAP)
            weight = torch.where(visit > 0, weight, 0.0)
            total = total + (visit.detach() * weight * huber(teacher[t] - student[t], clip)).sum()
        return total

    return loss


def frozen(student: Policy, teacher: Policy, writer: Policy) -> Tensor:
    """The loss with the advantage frozen at the writer and no ratio. It has no interior optimum."""
    pairs = zip(visits(writer), student, teacher, writer, strict=True)
    terms = [-(v * (t - w).clamp(-TAU, TAU) * s)[v > 0].sum() for v, s, t, w in pairs]
    return torch.stack(terms).sum()


def dense(*, k: int, tail: bool) -> Loss:
    """Reverse KL at the writer's prefixes over the teacher's k likeliest tokens: renormalised, or
    with one bucket for the rest. k = V is the whole reverse KL."""

    def loss(student: Policy, teacher: Policy, writer: Policy) -> Tensor:
        reach = prefix_logp(writer)
        total = torch.zeros(())
        for t, (s, q) in enumerate(zip(student, teacher, strict=True)):
            ids = q.topk(k).indices
            p_K, q_K = s.gather(-1, ids), q.gather(-1, ids)
            if tail and k < s.shape[-1]:
                rest_p = s.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
                rest_q = q.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
                p_K, q_K = torch.cat([p_K, rest_p], -1), torch.cat([q_K, rest_q], -1)
            elif not tail:
                p_K, q_K = p_K.log_softmax(-1), q_K.log_softmax(-1)
            total = total + (reach[t].exp().detach() * (p_K.exp() * (p_K - q_K)).sum(-1)).sum()
        return total

    return loss


def sft(student: Policy, teacher: Policy, writer: Policy) -> Tensor:
    """Cross-entropy on fresh teacher sequences: the control."""
    pairs = zip(visits(teacher), student, strict=True)
    return torch.stack([-(v.detach() * s).sum() for v, s in pairs]).sum()


def tempered(policy: Policy, *, temperature: float, top_p: float) -> Policy:
    """The policy of a sampler with temperature and top-p; -inf outside the nucleus."""
    levels = []
    for logp in policy:
        q = (logp / temperature).log_softmax(-1)
        ordered, order = q.sort(-1, descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        ordered = ordered.masked_fill(before >= top_p, -torch.inf).log_softmax(-1)
        levels.append(torch.full_like(q, -torch.inf).scatter(-1, order, ordered))
    return levels


def train(
    family: Family,
    start_D: Tensor,
    teacher: Policy,
    loss: Loss,
    *,
    steps: int,
    learning_rate: float,
    writer: Policy | None = None,
) -> Tensor:
    """Adam on exact gradients. Rollouts come from ``writer``, or from the student itself (online:
    their distribution follows it and carries no gradient)."""
    theta_D = start_D.clone().requires_grad_()
    optimizer = torch.optim.Adam([theta_D], lr=learning_rate)
    for _ in range(steps):
        student = family.policy(theta_D)
        source = [p.detach() for p in student] if writer is None else writer
        optimizer.zero_grad()
        loss(student, teacher, source).backward()
        optimizer.step()
    return theta_D.detach()
