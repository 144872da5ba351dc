"""Means over problems with 95% intervals."""

import math
from collections.abc import Sequence

import numpy as np

Z = 1.959963984540054  # 97.5% quantile of the normal distribution
RESAMPLES = 10_000


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95% score interval of a proportion; sound at 0% and 100%. Source: Wilson 1927."""
    share = successes / trials
    scale = 1 + Z**2 / trials
    centre = (share + Z**2 / (2 * trials)) / scale
    half = Z * math.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """95% percentile bootstrap of the mean over problems (samples are not independent)."""
    array = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    means = [array[rng.integers(0, len(array), len(array))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def accuracy_interval(scores: Sequence[Sequence[bool]]) -> tuple[float, tuple[float, float]]:
    """Mean over problems of the mean over samples, and its interval.

    ``scores[p][s]``: sample s of problem p is right. One sample each: Wilson's interval; more:
    bootstrap over problems.
    """
    means = [float(np.mean(samples)) for samples in scores]
    if all(len(samples) == 1 for samples in scores):
        return float(np.mean(means)), wilson_interval(int(sum(means)), len(means))
    return float(np.mean(means)), bootstrap_interval(means)
