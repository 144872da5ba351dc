"""Scores that no model gives are refused with file and row."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.data.scored import check_columns, check_score_row, check_scores
from leyden.errors import AlignmentError
from leyden.evals.statistics import accuracy_interval, bootstrap_interval, wilson_interval


def check(values, *, num_tokens=None, vocab=50):
    logp = np.array(values, np.float32)
    check_scores(
        logp,
        num_tokens=len(logp) if num_tokens is None else num_tokens,
        vocab_size=vocab,
        where="score: row 3, logp_teacher",
    )


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([-1.0, math.nan, -1.0], "token 1 is nan"),
        ([-1.0, -math.inf], "token 1 is -inf"),
        ([-1.0, 0.01], "token 1 is 0.01, a probability above one"),
        ([0.0] * 4, "every score is exactly 0"),
        ([-math.log(50)] * 3, "every score is -ln 50"),
    ],
)
def test_impossible_scores_are_named(values, problem):
    with pytest.raises(AlignmentError) as caught:
        check(values)
    assert str(caught.value).startswith(f"score: row 3, logp_teacher: {problem}")


def test_a_row_of_zeros_passes_only_from_a_certain_model():
    zeros = np.zeros(5, np.float32)
    where = {"num_tokens": 5, "vocab_size": 50, "where": "row 0"}
    check_scores(zeros, entropy_N=zeros, **where)
    with pytest.raises(AlignmentError, match="every score is exactly 0"):
        check_scores(zeros, entropy_N=zeros + 0.1, **where)


def test_half_a_row_of_zeros_is_missing_and_so_is_one_that_the_model_doubted():
    half = np.array([-1.0, -2.0, -0.5, -3.0, 0, 0, 0, 0], np.float32)
    where = {"num_tokens": 8, "vocab_size": 50, "where": "row 0"}
    with pytest.raises(AlignmentError, match="4 of its scores are exactly 0"):
        check_scores(half, **where)
    entropy = np.where(half == 0, 1e-6, 0.7).astype(np.float32)
    check_scores(half, entropy_N=entropy, **where)
    entropy[5] = 0.2
    with pytest.raises(AlignmentError, match="1 of its scores are exactly 0"):
        check_scores(half, entropy_N=entropy, **where)


def test_the_top_k_tells_how_certain_a_model_was():
    score = {"logp_teacher": np.zeros(4, np.float32), "topk_ids": np.arange(8)}
    row = {"num_tokens": 4, "vocab_size": 50, "where": "row 0"}
    sure = np.log(np.array([[1 - 1e-7, 1e-7]] * 4)).astype(np.float32)
    tail = np.full(4, -30, np.float32)
    check_score_row(score | {"teacher_topk_logp": sure.ravel(), "teacher_tail_logp": tail}, **row)
    even = np.full((4, 2), np.log(0.5), np.float32)
    with pytest.raises(AlignmentError, match="every score is exactly 0"):
        check_score_row(
            score | {"teacher_topk_logp": even.ravel(), "teacher_tail_logp": tail}, **row
        )


def test_a_missing_token_is_noticed():
    with pytest.raises(AlignmentError, match="2 scores for 3 tokens"):
        check([-1.0, -2.0], num_tokens=3)


@given(st.lists(st.floats(-40, -0.001), min_size=1, max_size=9))
def test_what_models_give_passes(values):
    check([*values, -0.5, 0.0])


def test_wilson_is_sound_at_the_ends():
    low, high = wilson_interval(0, 50)
    assert low == pytest.approx(0, abs=1e-12) and 0 < high < 0.1
    low, high = wilson_interval(50, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # Newcombe 1998, method 3


def test_bootstrap_covers_the_mean_of_problems():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(40):
        low, high = bootstrap_interval((rng.binomial(4, 0.3, 80) / 4).tolist(), seed=trial)
        covered += low <= 0.3 <= high
    assert covered >= 34


def test_accuracy_is_the_mean_over_problems_of_means_over_samples():
    accuracy, (low, high) = accuracy_interval([[True, False], [True, True], [False, False]])
    assert accuracy == 0.5 and low <= 0.5 <= high


@pytest.mark.parametrize("value", [0.0, -math.log(7)])
def test_a_whole_store_of_one_token_rows_without_a_model_is_refused(tmp_path, value):
    """One token with such a score is possible, but not all tokens of a store."""
    from leyden.store.plan import PlanRows, cut_units
    from leyden.store.reader import open_store
    from leyden.store.schema import scores_schema
    from leyden.store.writer import open_writer

    (unit,) = cut_units(PlanRows.of(("p", sample, 0) for sample in range(3)), 9)

    def store(folder, values):
        writer = open_writer(folder, scores_schema(0), [unit], origin="o")
        rows = [
            {"prompt_id": "p", "sample": i, "completion_crc32": 0, "teacher_entropy": [0.1],
             "reference_entropy": [0.1], "logp_teacher": [v], "logp_reference": [-1.0]}
            for i, v in enumerate(values)
        ]  # fmt: skip
        writer.commit(unit, rows, seconds=0.0)
        writer.seal()
        return open_store(folder)

    check_columns(store(tmp_path / "a", [value, value, -1.5]), 7)
    with pytest.raises(AlignmentError, match="every logp_teacher is"):
        check_columns(store(tmp_path / "b", [value] * 3), 7)
