"""What is measured while training, kept as sums and extremes so that no split changes it."""

from typing import Any

import torch
from torch import Tensor

from leyden.losses import running_sum

Sums = dict[str, Tensor]
LARGE = (1.0, 5.0)  # nats; how much of the advantage lies beyond


def policy_sums(
    logp_N: Tensor, teacher_N: Tensor, reference_N: Tensor | None, sequence_N: Tensor
) -> Sums:
    """Sums over tokens of the advantage and, on the reference's own rollouts, of the drift."""
    advantage_N = teacher_N - logp_N
    sums = {
        "advantage": advantage_N.sum(),
        "advantage_squared": (advantage_N**2).sum(),
        "min_advantage": advantage_N.min(),
        "max_advantage": advantage_N.max(),
    }
    sums |= {f"beyond_{b:g}": (advantage_N.abs() > b).float().sum() for b in LARGE}
    if reference_N is not None:
        drift_N = (logp_N - reference_N).double()
        sums |= _drift_sums(drift_N, advantage_N.double(), sequence_N)
    return sums


def _drift_sums(drift_N: Tensor, advantage_N: Tensor, sequence_N: Tensor) -> Sums:
    """How far the student has left the policy that wrote the rollouts.

    With w = student / reference and r = teacher / student at the reference's own tokens,
    E[w (r - 1 - log r)] is the reverse KL at its prefixes, and no term is negative.
    """
    ratio_N = drift_N.exp()
    prefix_N = running_sum(drift_N, sequence_N) - drift_N
    return {
        "drift": drift_N.sum(),
        "drift_squared": (drift_N**2).sum(),
        "prefix_drift_squared": (prefix_N**2).sum(),
        "ratio": ratio_N.sum(),
        "ratio_squared": (ratio_N**2).sum(),
        "kl_sampled": ((drift_N + advantage_N).exp() - ratio_N * (1 + advantage_N)).sum(),
    }


def importance_sums(weight_N: Tensor) -> Sums:
    return {
        "weight": weight_N.sum(),
        "weight_squared": (weight_N**2).sum(),
        "max_weight": weight_N.max(),
    }


def add(total: Sums, part: Sums) -> Sums:
    """Sums add; ``min_`` and ``max_`` entries keep the extreme."""
    merged = dict(total)
    for name, value in part.items():
        if name not in merged:
            merged[name] = value
        elif name.startswith("min_"):
            merged[name] = torch.minimum(merged[name], value)
        elif name.startswith("max_"):
            merged[name] = torch.maximum(merged[name], value)
        else:
            merged[name] = merged[name] + value
    return merged


def summarise(sums: Sums) -> dict[str, Any]:
    """Means and extremes, as plain numbers. Names are those of metrics.jsonl:

    ``loss`` as reduced, ``token_loss`` per token; ``advantage_*`` in nats (teacher minus student);
    ``far_loss_share`` of the unweighted loss from tokens with an advantage below -10 nats;
    ``drift_mean`` student minus reference, nats; ``drift_rms``; ``ratio_ess`` effective sample
    size of the ratios student / reference as a share of the tokens, ``ratio_mean`` their mean (1 in
    expectation), ``prefix_drift_rms`` of the log-ratio of whole prefixes; ``weight_ess`` that of
    the importance weights in use; ``*_covered`` mass inside the stored top k. Reverse KL to the
    teacher at the stored prefixes, nats per token: ``kl_sampled`` from the stored tokens by
    importance weighting (noisy), ``kl_topk`` from the stored top k with tail (a lower bound).
    """
    values = {name: float(value) for name, value in sums.items()}
    tokens = values["tokens"]
    found: dict[str, Any] = {
        "loss": values["loss"],
        "token_loss": values["token_loss"] / tokens,
        "tokens": int(tokens),
    }
    if "advantage" in values:
        mean = values["advantage"] / tokens
        variance = max(0.0, values["advantage_squared"] / tokens - mean**2)
        found |= {
            "advantage_mean": mean,
            "advantage_std": variance**0.5,
            "advantage_min": values["min_advantage"],
            "advantage_max": values["max_advantage"],
            **{f"advantage_beyond_{b:g}": values[f"beyond_{b:g}"] / tokens for b in LARGE},
        }
    if values.get("match_loss"):
        found["far_loss_share"] = values["far_loss"] / values["match_loss"]
    if "drift" in values:
        found |= {
            "drift_mean": values["drift"] / tokens,
            "drift_rms": (values["drift_squared"] / tokens) ** 0.5,
            "prefix_drift_rms": (values["prefix_drift_squared"] / tokens) ** 0.5,
            "ratio_mean": values["ratio"] / tokens,
            "ratio_ess": _effective_share(values, "ratio"),
        }
    if "weight" in values:
        found |= {
            "weight_mean": values["weight"] / tokens,
            "weight_max": values["max_weight"],
            "weight_ess": _effective_share(values, "weight"),
        }
    for name in ("student_covered", "teacher_covered", "kl_sampled", "kl_topk"):
        if name in values:
            found[name] = values[name] / tokens
    return found


def _effective_share(values: dict[str, float], name: str) -> float:
    """(sum w)^2 / (N sum w^2): 1 when all weights are equal, 1/N when one is everything."""
    return values[name] ** 2 / max(values[f"{name}_squared"] * values["tokens"], 1e-30)
