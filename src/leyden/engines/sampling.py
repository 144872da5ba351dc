"""Draw tokens so that a row's outcome depends on its own seed and logits alone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

LIKELIEST = 1024  # ids that hold the nucleus almost always; sorting all of them takes far longer
ROUNDING = 1e-3  # of a mass, summed in float32


def uniforms(seeds: Sequence[int], length: int) -> np.ndarray:
    """[B, length] numbers in [0, 1); row b is a function of ``seeds[b]`` only (Philox)."""
    rows = [np.random.Generator(np.random.Philox(key=seed)).random(length) for seed in seeds]
    return np.stack(rows)


def sample(
    logits_BV: Tensor, uniform_B: Tensor, *, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """(ids_B, logp_B): inverse-CDF draws and their log-probs under the transformed distribution.

    The nucleus is the smallest set of likeliest tokens whose mass reaches ``top_p``; log-probs are
    of the renormalised nucleus, in float32 nats. Temperature 0 takes the likeliest token.
    """
    if temperature == 0:
        return _greedy(logits_BV)
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
    ordered_BK = logp_BV.topk(min(LIKELIEST, logp_BV.shape[-1])).values
    if not (ordered_BK.exp().sum(-1) > top_p + ROUNDING).all():  # the nucleus may be larger
        ordered_BK = logp_BV.sort(dim=-1, descending=True).values
    # A token is kept while the mass before it is below top_p, so the first is always kept.
    before_BK = ordered_BK.exp().cumsum(-1) - ordered_BK.exp()
    count_B1 = (before_BK < top_p).sum(-1, keepdim=True)
    least_B1 = ordered_BK.gather(-1, count_B1 - 1)
    above_BV, equal_BV = logp_BV > least_B1, logp_BV == least_B1
    # Of equally likely tokens those with the lowest ids are kept.
    room_B1 = count_B1 - above_BV.sum(-1, keepdim=True)
    kept_BV = above_BV | (equal_BV & (equal_BV.cumsum(-1) <= room_B1))
    return logp_BV.masked_fill(~kept_BV, -torch.inf).log_softmax(-1)


def _greedy(logits_BV: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest ids, of which the sampler is certain: log-probs of 0, or NaN where they are."""
    best = logits_BV.float().max(-1)
    return best.indices, best.values - best.values
