"""A benchmark's verdicts summed up: avg@k, pass@k, maj@k, what went wrong, and for whom."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from leyden.evals.statistics import accuracy_interval, majority_share, mean_interval, pass_at
from leyden.evals.verdict import LETTERS, OUTCOMES, RIGHT, Verdict


def summarise(by_problem: Mapping[str, Sequence[Verdict]]) -> dict[str, Any]:
    """Of the verdicts on every sample of every problem, k samples each.

    ``accuracy`` is avg@k. ``pass_at`` holds k -> [value, low, high], ``majority`` the same of maj@k
    (None where answers cannot be compared, or k is 1). ``outcomes`` has a letter per sample.
    """
    right = {p: [v.outcome == RIGHT for v in verdicts] for p, verdicts in by_problem.items()}
    accuracy, interval = accuracy_interval(list(right.values()))
    counts = Counter(v.outcome for verdicts in by_problem.values() for v in verdicts)
    samples = max(map(len, right.values()))
    return {
        "accuracy": accuracy,
        "interval": list(interval),
        "problems": len(right),
        "samples": sum(map(len, right.values())),
        "samples_per_problem": samples,
        **{outcome: counts[outcome] for outcome in OUTCOMES},
        "pass_at": {str(k): _pass(right, k) for k in sizes(samples)},
        "majority": _majority(by_problem) if samples > 1 else None,
        "outcomes": {p: "".join(LETTERS[v.outcome] for v in vs) for p, vs in by_problem.items()},
    }


def sizes(samples: int) -> list[int]:
    """The k of pass@k that are reported: powers of two, and all samples."""
    powers = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
    return sorted({*powers, samples})


def _pass(right: Mapping[str, Sequence[bool]], k: int) -> list[float]:
    values = [pass_at(k, samples=len(r), successes=sum(r)) for r in right.values()]
    return _flat(mean_interval(values))


def _majority(by_problem: Mapping[str, Sequence[Verdict]]) -> list[float] | None:
    if not any(v.answer for verdicts in by_problem.values() for v in verdicts):
        return None
    votes = [
        [(v.outcome == RIGHT, v.answer) for v in verdicts if v.answer]
        for verdicts in by_problem.values()
    ]
    return _flat(mean_interval([majority_share(problem) for problem in votes]))


def _flat(found: tuple[float, tuple[float, float]]) -> list[float]:
    return [found[0], *found[1]]
