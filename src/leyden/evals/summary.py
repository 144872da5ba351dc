"""Sum a benchmark's verdicts up: avg@k, pass@k, maj@k, what went wrong, and on which problems."""

from collections import Counter
from collections.abc import Mapping, Sequence

from leyden.evals.results import Estimate, Tally
from leyden.evals.statistics import accuracy_interval, majority_share, mean_interval, pass_at
from leyden.evals.verdict import LETTERS, OUTCOMES, RIGHT, Verdict


def summarise(by_problem: Mapping[str, Sequence[Verdict]]) -> Tally:
    """The tally of the verdicts on every sample of every problem, k samples each."""
    right = {p: [v.outcome == RIGHT for v in verdicts] for p, verdicts in by_problem.items()}
    accuracy, interval = accuracy_interval(list(right.values()))
    counts = Counter(v.outcome for verdicts in by_problem.values() for v in verdicts)
    samples = max(map(len, right.values()))
    return Tally(
        accuracy=accuracy,
        interval=interval,
        problems=len(right),
        samples=sum(map(len, right.values())),
        samples_per_problem=samples,
        **{outcome: counts[outcome] for outcome in OUTCOMES},
        pass_at={str(k): _pass(right, k) for k in sizes(samples)},
        majority=_majority(by_problem) if samples > 1 else None,
        outcomes={p: "".join(LETTERS[v.outcome] for v in vs) for p, vs in by_problem.items()},
    )


def sizes(samples: int) -> list[int]:
    """The k of pass@k that are reported: powers of two, and all samples."""
    powers = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
    return sorted({*powers, samples})


def _pass(right: Mapping[str, Sequence[bool]], k: int) -> Estimate:
    return _estimate([pass_at(k, samples=len(r), successes=sum(r)) for r in right.values()])


def _majority(by_problem: Mapping[str, Sequence[Verdict]]) -> Estimate | None:
    if not any(v.answer for verdicts in by_problem.values() for v in verdicts):
        return None
    votes = [
        [(v.outcome == RIGHT, v.answer) for v in verdicts if v.answer]
        for verdicts in by_problem.values()
    ]
    return _estimate([majority_share(problem) for problem in votes])


def _estimate(values: Sequence[float]) -> Estimate:
    mean, (low, high) = mean_interval(values)
    return Estimate(mean, low, high)
