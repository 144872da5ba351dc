"""Means over seeds, and paired differences with intervals that a small number of seeds allows."""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np

RESAMPLES = 20_000
T975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262,
        11: 2.228, 12: 2.201, 13: 2.179, 14: 2.160, 15: 2.145, 16: 2.131}  # fmt: skip
"""Number of values -> Student's t, 97.5%."""


def points(runs: Sequence[Mapping], model: str) -> np.ndarray:
    """Accuracy in points, one per seed."""
    return np.array([100 * run[model]["accuracy"] for run in runs])


def mean_error(values: np.ndarray, digits: int = 1) -> str:
    """Mean and standard error over seeds."""
    error = values.std(ddof=1) / sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{values.mean():.{digits}f} ± {error:.{digits}f}"


def paired(values: np.ndarray) -> str:
    """Mean of paired differences with its 95% bootstrap interval over seeds.

    The plain percentile interval of n = 8 values covers 89%; its percentiles are moved outwards so
    that for normal data it is Student's (Hesterberg 2015, "expanded percentile interval").
    """
    n = len(values)
    if n < 2:
        return f"{values.mean():+.1f}"
    outside = NormalDist().cdf(-sqrt(n / (n - 1)) * T975[n])
    rng = np.random.default_rng(0)
    draws = values[rng.integers(0, n, (RESAMPLES, n))].mean(-1)
    low, high = np.quantile(draws, [outside, 1 - outside])
    return f"{values.mean():+.1f} [{low:+.1f}, {high:+.1f}]"
