"""Sum a benchmark's verdicts up: avg@k, pass@k, maj@k, what went wrong, and on which problems."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from leyden.evals.results import Estimate, Group, Tally
from leyden.evals.statistics import (
    accuracy_interval,
    majority_share,
    mean_interval,
    pass_at,
    sampling_error,
)
from leyden.evals.verdict import FORGEABLE, LETTERS, OUTCOMES, RIGHT, Verdict

MOST_GROUPS = 30  # a field with more values is a name rather than a kind
NONE: Mapping[str, Mapping[str, str]] = MappingProxyType({})


def summarise(
    by_problem: Mapping[str, Sequence[Verdict]], labels: Mapping[str, Mapping[str, str]] = NONE
) -> Tally:
    """The tally of the verdicts on every sample of every problem, k samples each.

    ``labels`` are of problems, such as {"subject": "Algebra"}: accuracies are given by them too.
    """
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
        forgeable=sum(v.why == FORGEABLE for verdicts in by_problem.values() for v in verdicts),
        sampling_error=sampling_error(list(right.values())),
        groups=_groups(right, labels),
        outcomes={p: "".join(LETTERS[v.outcome] for v in vs) for p, vs in by_problem.items()},
    )


def _groups(
    right: Mapping[str, Sequence[bool]], labels: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, Group]]:
    """Field -> value -> accuracy, of fields that tell problems apart without being an id."""
    groups: dict[str, dict[str, Group]] = {}
    for name in sorted({name for of_problem in labels.values() for name in of_problem}):
        by_value: dict[str, list[Sequence[bool]]] = {}
        for problem, samples in right.items():
            if value := labels.get(problem, {}).get(name, ""):
                by_value.setdefault(value, []).append(samples)
        if 1 < len(by_value) <= MOST_GROUPS:
            groups[name] = {v: _group(by_value[v]) for v in sorted(by_value, key=_in_order)}
    return groups


def _group(samples: Sequence[Sequence[bool]]) -> Group:
    accuracy, (low, high) = accuracy_interval(samples)
    return Group(len(samples), Estimate(accuracy, low, high))


def _in_order(value: str) -> tuple[float, str]:
    """Numbers by size, then texts: level 10 is after level 9."""
    number = re.search(r"\d+", value)
    return (float(number[0]) if number else -1.0, value)


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
