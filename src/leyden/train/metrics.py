"""Measurements of training, kept as sums and extremes so that no split changes them."""

from typing import Any

import torch
from torch import Tensor

from leyden.losses import running_sum

Sums = dict[str, Tensor]
LARGE = (1.0, 5.0)  # nats; the share of tokens with an advantage beyond is measured


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
    """Sums about how far the student has left the policy that wrote the rollouts.

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
    """Sums over tokens of the importance weights in use."""
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
    """Means and extremes as plain numbers, under the names of metrics.jsonl.

    Log-probs are in nats; shares are of the tokens.

        loss               as reduced over the global batch
        token_loss         the same, per token
        advantage_*        teacher minus student: mean, std, extremes, share beyond 1 and 5 nats
        far_loss_share     share of the unweighted loss from advantages below -10 nats
        drift_mean, _rms   student minus reference
        prefix_drift_rms   the same, of whole prefixes
        ratio_mean         of student / reference: 1 in expectation
        ratio_ess          effective sample size of these ratios, as a share
        weight_*           the importance weights in use: mean, maximum, effective sample size
        *_covered          mass inside the stored top k
        kl_sampled         reverse KL to the teacher at the stored prefixes, per token, from the
                           stored tokens by importance weighting: noisy
        kl_topk            the same from the stored top k and its tail: a lower bound
    """
    values = {name: float(value) for name, value in sums.items()}
    tokens = values["tokens"]
    summary: dict[str, Any] = {
        "loss": values["loss"],
        "token_loss": values["token_loss"] / tokens,
        "tokens": int(tokens),
    }
    if "advantage" in values:
        mean = values["advantage"] / tokens
        variance = max(0.0, values["advantage_squared"] / tokens - mean**2)
        summary |= {
            "advantage_mean": mean,
            "advantage_std": variance**0.5,
            "advantage_min": values["min_advantage"],
            "advantage_max": values["max_advantage"],
            **{f"advantage_beyond_{b:g}": values[f"beyond_{b:g}"] / tokens for b in LARGE},
        }
    if values.get("match_loss"):
        summary["far_loss_share"] = values["far_loss"] / values["match_loss"]
    if "drift" in values:
        summary |= {
            "drift_mean": values["drift"] / tokens,
            "drift_rms": (values["drift_squared"] / tokens) ** 0.5,
            "prefix_drift_rms": (values["prefix_drift_squared"] / tokens) ** 0.5,
            "ratio_mean": values["ratio"] / tokens,
            "ratio_ess": _effective_share(values, "ratio"),
        }
    if "weight" in values:
        summary |= {
            "weight_mean": values["weight"] / tokens,
            "weight_max": values["max_weight"],
            "weight_ess": _effective_share(values, "weight"),
        }
    for name in ("student_covered", "teacher_covered", "kl_sampled", "kl_topk"):
        if name in values:
            summary[name] = values[name] / tokens
    return summary


def _effective_share(values: dict[str, float], name: str) -> float:
    """(sum w)^2 / (N sum w^2): 1 when all weights are equal, 1/N when one is everything."""
    return values[name] ** 2 / max(values[f"{name}_squared"] * values["tokens"], 1e-30)
