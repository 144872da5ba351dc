"""Means over problems with 95% intervals, pass@k, majority votes, and two models compared."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

Z = 1.959963984540054  # 97.5% quantile of the normal distribution
RESAMPLES = 10_000
DRAWN_AT_ONCE = 2**22  # counts in memory: 32 MiB
Interval = tuple[float, float]


def wilson_interval(successes: float, trials: float, *, quantile: float = Z) -> Interval:
    """95% score interval of a proportion; sound at 0% and 100%. Source: Wilson 1927."""
    share, z = successes / trials, quantile
    scale = 1 + z**2 / trials
    centre = (share + z**2 / (2 * trials)) / scale
    half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / scale
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def bootstrap_interval(values: Sequence[float], *, seed: int = 0, comparisons: int = 1) -> Interval:
    """95% percentile bootstrap of the mean over problems (samples are not independent).

    Of several ``comparisons``, all intervals hold the truth together in 95% of cases. Source: the
    correction of Bonferroni.
    """
    # Problems are drawn, not samples: the samples of one problem are alike. How often each value is
    # drawn is multinomial, and few values differ, since they are shares of a few samples.
    array, counts = np.unique(np.asarray(values, np.float64), return_counts=True)
    rng, most = np.random.default_rng(seed), max(1, DRAWN_AT_ONCE // len(array))
    means: list[np.ndarray] = []
    for start in range(0, RESAMPLES, most):
        size = min(most, RESAMPLES - start)
        drawn = rng.multinomial(len(values), counts / len(values), size)
        means.append(drawn @ array / len(values))
    ordered = np.sort(np.concatenate(means))
    # Interpolated between order statistics, as np.quantile does, which takes 40 ms to import.
    tail = 0.025 / comparisons
    places = np.array([tail, 1 - tail]) * (RESAMPLES - 1)
    low, high = np.interp(places, np.arange(RESAMPLES), ordered)
    return float(low), float(high)


def effective_interval(values: Sequence[float]) -> Interval:
    """95% interval of the mean of values in [0, 1], one per problem, that are not all alike.

    Wilson's interval of as many independent outcomes as have the variance of the mean, with the
    quantile of Student's t for n - 1 degrees of freedom. Where few of few problems are solved, a
    bootstrap covers too seldom: it draws mostly what it saw. Source: Korn and Graubard 1998,
    Survey Methodology 24(2), who do so for proportions in clusters.
    """
    n, mean = len(values), math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    effective = n * mean * (1 - mean) / variance
    return wilson_interval(mean * effective, effective, quantile=student(n - 1))


def student(degrees: int) -> float:
    """The 97.5% quantile of Student's t. Source: Abramowitz and Stegun 1964, 26.7.5."""
    terms = (
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
    )
    return Z + sum(term / degrees ** (i + 1) for i, term in enumerate(terms))


def mean_interval(values: Sequence[float]) -> tuple[float, Interval]:
    """The mean of values in [0, 1], one per problem, and its 95% interval.

    It is Wilson's where every value is 0 or 1 or all are alike, else ``effective_interval``.
    """
    mean = float(np.mean(values))
    if set(values) <= {0.0, 1.0} or min(values) == max(values):
        return mean, wilson_interval(mean * len(values), len(values))
    return mean, effective_interval(values)


def accuracy_interval(right: Sequence[Sequence[bool]]) -> tuple[float, Interval]:
    """avg@k: the mean over problems of the mean over samples, and its interval.

    ``right[p][s]``: sample s of problem p is right.
    """
    return mean_interval([_share(samples) for samples in right])


def _share(samples: Sequence[bool]) -> float:
    return sum(samples) / len(samples)  # np.mean takes ten times as long for a few


def sampling_error(right: Sequence[Sequence[bool]]) -> float | None:
    """The standard error of avg@k that comes from sampling the same problems again alone.

    It is the part that more samples make smaller; the rest of an interval comes from the choice of
    problems. None with one sample each, which tells nothing of it. Source: Miller 2024 (arXiv
    2411.00640), section 3.2.
    """
    if min(map(len, right)) < 2:
        return None
    shares = [(_share(samples), len(samples)) for samples in right]
    within = math.fsum(p * (1 - p) / (k - 1) for p, k in shares)  # unbiased variances of the means
    return math.sqrt(within) / len(right)


def pass_at(k: int, *, samples: int, successes: int) -> float:
    """The unbiased estimate that one of k samples is right, from ``successes`` of ``samples``.

    1 - C(n - c, k) / C(n, k). Source: Chen et al. 2021 (arXiv 2107.03374), equation 1.
    """
    if k > samples:
        raise ValueError(f"pass@{k} of {samples} samples")
    return 1.0 - math.comb(samples - successes, k) / math.comb(samples, k)


def majority_share(votes: Sequence[tuple[bool, str]]) -> float:
    """maj@k of one problem: whether the most frequent answer is right.

    ``votes`` are (right, answer) of every sample with an answer. All right answers count as one,
    however they are written. A tie counts as the share of right ones among the tied. Source: Wang
    et al. 2022 (arXiv 2203.11171), self-consistency.
    """
    if not votes:
        return 0.0
    # Right answers are one candidate, None, in whatever notation they are written.
    counts = Counter(None if right else answer for right, answer in votes)
    most = max(counts.values())
    first = [answer for answer, count in counts.items() if count == most]
    return (None in first) / len(first)


def paired_difference(
    first: Mapping[str, Sequence[bool]],
    second: Mapping[str, Sequence[bool]],
    *,
    seed: int = 0,
    comparisons: int = 1,
) -> tuple[float, Interval]:
    """The accuracy of ``first`` minus ``second`` on the problems that both answered.

    It is the mean over problems of the difference of their means over samples, bootstrapped over
    problems, so that whatever makes a problem hard for both cancels. Where all differences are
    equal, the interval is as wide as Wilson's is for n equal outcomes. Of several ``comparisons``,
    all intervals hold together. Raises ValueError where the two share no problem.
    """
    shared = [problem for problem in first if problem in second]
    if not shared:
        raise ValueError("no problem in common")
    differences = [_share(first[p]) - _share(second[p]) for p in shared]
    mean = float(np.mean(differences))
    if min(differences) == max(differences):  # nothing to resample
        quantile = NormalDist().inv_cdf(1 - 0.025 / comparisons)
        room = wilson_interval(0, len(shared), quantile=quantile)[1]
        return mean, (max(-1.0, mean - room), min(1.0, mean + room))
    return mean, bootstrap_interval(differences, seed=seed, comparisons=comparisons)
