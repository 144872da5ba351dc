"""avg@k, pass@k, maj@k and paired differences against their definitions, by enumeration."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.evals.statistics import (
    bootstrap_interval,
    majority_share,
    mean_interval,
    paired_difference,
    pass_at,
    sampling_error,
    student,
    wilson_interval,
)
from leyden.evals.summary import sizes, summarise
from leyden.evals.verdict import FORGEABLE, RIGHT, TRUNCATED, UNPARSED, WRONG, Verdict

OUTCOME_LISTS = st.lists(st.booleans(), min_size=1, max_size=9)


@given(OUTCOME_LISTS, st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(right, data):
    k = data.draw(st.integers(1, len(right)))
    subsets = list(itertools.combinations(right, k))
    expected = Fraction(sum(any(subset) for subset in subsets), len(subsets))
    assert pass_at(k, samples=len(right), successes=sum(right)) == pytest.approx(float(expected))


def test_pass_at_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match="pass@5 of 4 samples"):
        pass_at(5, samples=4, successes=1)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=8))
def test_a_majority_vote_is_the_mean_over_tied_winners(votes):
    """Computed by hand: right answers are one candidate, wrong answers count by their text."""
    names = ["right" if right else f"wrong {answer}" for right, answer in votes]
    most = max((names.count(n) for n in names), default=0)
    winners = {n for n in names if names.count(n) == most}
    expected = ("right" in winners) / len(winners) if winners else 0.0
    assert majority_share(votes) == pytest.approx(expected)


@given(st.integers(1, 40), st.data())
def test_wilson_holds_its_share_and_stays_inside(trials, data):
    successes = data.draw(st.integers(0, trials))
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert high - low > 0


def test_intervals_never_vanish():
    """A bootstrap of equal values has no width, but three solved problems are no certainty."""
    for values in ([1.0] * 3, [0.0] * 3, [0.5] * 3):
        mean, (low, high) = mean_interval(values)
        assert low <= mean <= high
        assert high - low > 0.2
    assert bootstrap_interval([1.0] * 3) == (1.0, 1.0)


@pytest.mark.parametrize("mean", [0.03, 0.05, 0.5, 0.97])
def test_intervals_of_few_problems_cover(mean):
    """Thirty problems of unequal difficulty, sampled four times: a bootstrap covers 86% at 3%."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        rates = rng.beta(3 * mean, 3 * (1 - mean), 30)
        _, (low, high) = mean_interval((rng.binomial(4, rates) / 4).tolist())
        covered += low <= mean <= high
    assert covered / 600 > 0.92


def test_the_quantile_of_student():
    """From a table: 2.228 for 10 degrees of freedom, 2.045 for 29, 1.984 for 99."""
    assert [round(student(n), 3) for n in (10, 29, 99)] == [2.228, 2.045, 1.984]


def test_bootstrap_intervals_cover():
    """Of 400 samples of 40 problems with a known mean, about 95% of the intervals contain it."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        means = rng.beta(0.5, 0.5, 40)  # problems are mostly easy or hard; mean 0.5
        values = rng.binomial(4, means) / 4
        draws = values[rng.integers(0, 40, (500, 40))].mean(-1)
        low, high = np.quantile(draws, [0.025, 0.975])
        covered += low <= 0.5 <= high
    assert 0.91 < covered / 400 < 0.98


def test_pairing_takes_away_what_makes_a_problem_hard():
    """Two models are 10 points apart on uneven problems. Each is uncertain, their difference is
    not."""
    rng = np.random.default_rng(1)
    hardness = rng.integers(0, 2, 100)
    first = {f"p{i}": [bool(h)] * 9 + [True] for i, h in enumerate(hardness)}
    second = {f"p{i}": [bool(h)] * 10 for i, h in enumerate(hardness)}
    value, (low, high) = paired_difference(first, second)
    assert value == pytest.approx(0.1 * (hardness == 0).mean())
    assert 0 < low < value < high < 0.1
    alone = bootstrap_interval([float(np.mean(v)) for v in first.values()])
    assert high - low < (alone[1] - alone[0]) / 5


def test_pairing_is_over_shared_problems_and_antisymmetric():
    first = {"a": [True], "b": [False], "c": [True], "only here": [True]}
    second = {"c": [False], "b": [False], "a": [True], "only there": [False]}
    value, (low, high) = paired_difference(first, second)
    back, (back_low, back_high) = paired_difference(second, first)
    assert value == pytest.approx(1 / 3) == -back
    assert low == pytest.approx(-back_high, abs=1e-9)
    assert high == pytest.approx(-back_low, abs=1e-9)
    with pytest.raises(ValueError, match="no problem in common"):
        paired_difference({"a": [True]}, {"b": [True]})


def test_equal_models_on_few_problems_are_not_proven_equal():
    same = {f"p{i}": [True] for i in range(10)}
    value, (low, high) = paired_difference(same, same)
    assert value == 0
    assert low < -0.2
    assert high > 0.2


def test_sizes_of_pass_at_k():
    assert sizes(1) == [1]
    assert sizes(6) == [1, 2, 4, 6]
    assert sizes(32) == [1, 2, 4, 8, 16, 32]


def test_a_summary_counts_what_is_not_right_apart():
    tally = summarise(
        {
            "bench/1": [Verdict(RIGHT, "4"), Verdict(WRONG, "5"), Verdict(WRONG, "5")],
            "bench/2": [Verdict(RIGHT, "1/2"), Verdict(RIGHT, "0.5"), Verdict(TRUNCATED)],
            "bench/3": [Verdict(UNPARSED), Verdict(UNPARSED), Verdict(RIGHT, "x")],
        }
    )
    assert tally.accuracy == pytest.approx((1 / 3 + 2 / 3 + 1 / 3) / 3)
    counts = (tally.right, tally.wrong, tally.unparsed, tally.truncated)
    assert counts == (4, 2, 2, 1)
    assert (tally.problems, tally.samples, tally.samples_per_problem) == (3, 9, 3)
    assert list(tally.pass_at) == ["1", "2", "3"]
    assert tally.pass_at["3"][0] == 1.0
    assert tally.pass_at["1"][0] == pytest.approx(tally.accuracy)
    assert tally.majority is not None  # 5 beats 4; 1/2 is 0.5; x alone voted
    assert tally.majority.value == pytest.approx(2 / 3)
    assert tally.outcomes == {"bench/1": "rww", "bench/2": "rrt", "bench/3": "uur"}


def test_programs_have_no_majority():
    tally = summarise({"bench/1": [Verdict(RIGHT), Verdict(WRONG)]})
    assert tally.majority is None


def test_the_sampling_error_is_the_spread_of_new_samples_of_the_same_problems():
    """Against simulation: the standard deviation of avg@k when the same problems are answered
    again."""
    rng = np.random.default_rng(0)
    rates, k = rng.beta(0.5, 0.5, 40), 8
    again = [rng.random((len(rates), k)) < rates[:, None] for _ in range(4000)]
    means = np.array([right.mean() for right in again])
    estimated = [sampling_error(right.tolist()) or 0.0 for right in again[:400]]
    assert np.sqrt(np.mean(np.square(estimated))) == pytest.approx(means.std(), rel=0.05)
    assert sampling_error([[True], [False]]) is None
    assert sampling_error([[True, True], [False, False]]) == 0


@pytest.mark.parametrize("comparisons", [1, 8])
def test_of_many_arms_that_are_no_better_few_look_better(comparisons):
    """Corrected intervals exclude zero for any of eight equal arms in at most 1 of 20 cases."""
    rng = np.random.default_rng(1)
    cases, false = 60, 0
    for case in range(cases):
        rates = rng.beta(1, 1, 60)

        def answered(rates=rates) -> dict[str, list[bool]]:
            right = rng.random((len(rates), 4)) < rates[:, None]
            return {str(i): row.tolist() for i, row in enumerate(right)}

        base = answered()
        intervals = [
            paired_difference(answered(), base, seed=case, comparisons=comparisons)[1]
            for _ in range(8)
        ]
        false += any(low > 0 or high < 0 for low, high in intervals)
    assert false <= 6 if comparisons == 8 else false > 6, false


def test_accuracies_are_told_by_what_rows_say_of_problems():
    right, wrong = [Verdict(RIGHT), Verdict(RIGHT)], [Verdict(WRONG), Verdict(RIGHT)]
    labels = {
        "a": {"level": "Level 2", "name": "x"},
        "b": {"level": "Level 10", "name": "y"},
        "c": {"level": "Level 2", "name": "x"},
    }
    tally = summarise({"a": right, "b": wrong, "c": wrong}, labels)
    level = tally.groups["level"]
    assert list(level) == ["Level 2", "Level 10"]
    assert (level["Level 2"].problems, level["Level 2"].accuracy.value) == (2, 0.75)
    assert level["Level 10"].accuracy.value == 0.5
    assert summarise({"a": right}, labels).groups == {}, "one value tells nothing apart"
    many = {str(i): {"name": str(i)} for i in range(99)}
    assert summarise({str(i): right for i in range(99)}, many).groups == {}, "names are no kinds"


def test_programs_that_could_be_forged_are_counted():
    tally = summarise({"a": [Verdict(RIGHT, why=FORGEABLE), Verdict(RIGHT)]})
    assert tally.forgeable == 1
