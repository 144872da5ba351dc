"""Draw tokens so that a row's outcome depends on its own seed and logits alone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def uniforms(seeds: Sequence[int], length: int) -> np.ndarray:
    """[B, length] numbers in [0, 1); row b is a function of ``seeds[b]`` only (Philox)."""
    rows = [np.random.Generator(np.random.Philox(key=seed)).random(length) for seed in seeds]
    return np.stack(rows)


def sample(
    logits_BV: Tensor, uniform_B: Tensor, *, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """(ids_B, logp_B): inverse-CDF draws and their log-probs under the transformed distribution.

    The nucleus is the smallest set of likeliest tokens whose mass reaches ``top_p``; log-probs are
    of the renormalised nucleus, in float32 nats.
    """
    logp_BV = (logits_BV.float() / temperature).log_softmax(-1)
    if top_p < 1.0:
        logp_BV = _nucleus(logp_BV, top_p)
    # In float64, scaled by the actual sum: a target never lies beyond the last token with mass.
    cumulative_BV = logp_BV.double().exp().cumsum(-1)
    target_B1 = uniform_B.to(logp_BV.device)[:, None] * cumulative_BV[:, -1:]
    ids_B1 = torch.searchsorted(cumulative_BV, target_B1, right=True)  # never one without mass
    ids_B1 = ids_B1.clamp_max(logp_BV.shape[-1] - 1)
    return ids_B1[:, 0], logp_BV.gather(-1, ids_B1)[:, 0]


def _nucleus(logp_BV: Tensor, top_p: float) -> Tensor:
    ordered_BV, order_BV = logp_BV.sort(dim=-1, descending=True, stable=True)
    # A token is kept while the mass before it is below top_p, so the first is always kept.
    before_BV = ordered_BV.exp().cumsum(-1) - ordered_BV.exp()
    ordered_BV = ordered_BV.masked_fill(before_BV >= top_p, -torch.inf).log_softmax(-1)
    return torch.full_like(logp_BV, -torch.inf).scatter(-1, order_BV, ordered_BV)
