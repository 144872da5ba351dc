"""Policies over every sequence of T tokens from V, enumerated exactly in float64.

A prefix of t tokens is a number in base V, so level t holds V^t prefixes and the children of prefix
p are p * V + a. Shapes: P prefixes of a level, V tokens, D parameters; a "policy" is a list of
log-probs [V^t, V], one tensor per level t = 0..T-1. Nothing is sampled.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

torch.set_default_dtype(torch.float64)
V = 4

Policy = list[Tensor]


@dataclass(frozen=True)
class Family:
    """A set of policies: parameters [D] -> log-probs of every level."""

    name: str
    num_parameters: int
    logits: Callable[[Tensor], list[Tensor]]

    def policy(self, theta_D: Tensor) -> Policy:
        return [logits_PV.log_softmax(-1) for logits_PV in self.logits(theta_D)]


def tabular(length: int) -> Family:
    """Policies with logits of their own for every prefix: any policy can be represented."""
    sizes = [V**t * V for t in range(length)]
    return Family(
        "tabular",
        sum(sizes),
        lambda theta_D: [part.view(-1, V) for part in theta_D.split(sizes)],
    )


def bigram(length: int) -> Family:
    """Policies that see the last token and the position's parity: no teacher can be represented."""

    def logits(theta_D: Tensor) -> list[Tensor]:
        table = theta_D.view(2, V + 1, V)
        levels = [table[0, V][None]]
        for t in range(1, length):
            last = torch.arange(V**t) % V
            levels.append(table[t % 2, last])
        return levels

    return Family("bigram", 2 * (V + 1) * V, logits)


def prefix_logp(policy: Policy) -> list[Tensor]:
    """log-prob of every prefix, per level 0..T; the last level is that of whole sequences."""
    levels = [torch.zeros(1)]
    for logp_PV in policy:
        levels.append((levels[-1][:, None] + logp_PV).flatten())
    return levels


def weighted_score(theta_D: Tensor, family: Family, weights: Sequence[Tensor]) -> Tensor:
    """sum over prefixes and tokens of weight * grad log pi_theta(a | s), [D]."""
    theta_D = theta_D.detach().requires_grad_()
    policy = family.policy(theta_D)
    terms = [(w.detach() * logp).sum() for w, logp in zip(weights, policy, strict=True)]
    total = reduce(torch.add, terms)
    (gradient,) = torch.autograd.grad(total, theta_D)
    return gradient


def advantages(policy: Policy, teacher: Policy) -> list[Tensor]:
    """A = log pi_T - log pi_theta, per prefix and token (equation 2 of the paper)."""
    return [t - p for t, p in zip(teacher, policy, strict=True)]


def visits(policy: Policy) -> list[Tensor]:
    """Probability of reaching each prefix and taking each token there, [P, V] per level."""
    reach = prefix_logp(policy)
    return [(r[:, None] + p).exp() for r, p in zip(reach, policy, strict=False)]


def online_gradient(theta_D: Tensor, family: Family, teacher: Policy) -> Tensor:
    """grad J_on = E_{x ~ pi_theta} sum_t A_t grad log pi_theta(a_t | s_t)."""
    policy = family.policy(theta_D)
    pairs = zip(visits(policy), advantages(policy, teacher), strict=True)
    return weighted_score(theta_D, family, [v * a for v, a in pairs])


def offline_gradient(theta_D: Tensor, family: Family, teacher: Policy, writer: Policy) -> Tensor:
    """grad J_off: the same with sequences from ``writer``."""
    policy = family.policy(theta_D)
    pairs = zip(visits(writer), advantages(policy, teacher), strict=True)
    return weighted_score(theta_D, family, [v * a for v, a in pairs])


def gap_parts(
    theta_D: Tensor, family: Family, teacher: Policy, reference: Policy
) -> tuple[Tensor, Tensor]:
    """(prefix part, action part) of grad J_on - grad J_off, from the definition of their weights.

    Prefix: E_ref sum_t (w_{<t} - 1) w_t phi_t; action: E_ref sum_t (w_t - 1) phi_t, with w_t the
    ratio pi_theta / pi_ref at token t and phi_t = A_t grad log pi_theta(a_t | s_t).
    """
    policy = family.policy(theta_D)
    reach, reach_ref = prefix_logp(policy), prefix_logp(reference)
    prefix, action = [], []
    for t, advantage in enumerate(advantages(policy, teacher)):
        written = (reach_ref[t][:, None] + reference[t]).exp()
        w = (policy[t] - reference[t]).exp()
        w_before = (reach[t] - reach_ref[t]).exp()[:, None]
        prefix.append(written * (w_before - 1) * w * advantage)
        action.append(written * (w - 1) * advantage)
    return weighted_score(theta_D, family, prefix), weighted_score(theta_D, family, action)


def sequence_kl(first: Policy, second: Policy) -> Tensor:
    """KL(first || second) over whole sequences, nats."""
    return (visits_sum(first, [a - b for a, b in zip(first, second, strict=True)])).sum()


def visits_sum(writer: Policy, values: Sequence[Tensor]) -> Tensor:
    """E_{x ~ writer} sum_t value(s_t, a_t)."""
    pairs = zip(visits(writer), values, strict=True)
    return torch.stack([(v * x).sum() for v, x in pairs]).sum()


def chi_square(policy: Policy, reference: Policy) -> Tensor:
    """chi^2(pi_theta || pi_ref) over whole sequences."""
    ours, theirs = prefix_logp(policy)[-1], prefix_logp(reference)[-1]
    return (2 * ours - theirs).exp().sum() - 1


def second_moment(writer: Policy, values: Sequence[Tensor]) -> Tensor:
    """sqrt E_{x ~ writer} (sum_t |value(s_t, a_t)|)^2: sigma_A and sigma_Delta of the paper."""
    total = torch.zeros(1)
    for value in values:
        total = (total[:, None] + value.abs()).flatten()
    return (prefix_logp(writer)[-1].exp() * total**2).sum().sqrt()


def score_bound(theta_D: Tensor, family: Family) -> Tensor:
    """G: the largest norm of grad log pi_theta(a | s) over prefixes and tokens."""
    rows = torch.autograd.functional.jacobian(
        lambda theta: torch.cat([p.flatten() for p in family.policy(theta)]), theta_D
    )
    return rows.norm(dim=-1).max()
