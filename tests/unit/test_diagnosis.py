"""Each warning fires on the numbers that it is about, and on no healthy ones."""

import pytest

from leyden.monitor.diagnosis import RULES, best_step, diagnose
from leyden.recipe.training import Objective

HEALTHY = {
    "split": "heldout", "loss": 0.3, "token_loss": 0.3, "tokens": 900, "far_loss_share": 0.1,
    "kl_topk": 0.05, "kl_sampled": 0.05, "ratio_ess": 0.98, "ratio_mean": 1.0,
    "prefix_drift_rms": 0.5, "student_covered": 0.99, "length_mean": 20.0, "stop_rate": 1.0,
}  # fmt: skip
SCORES = {"surprisal_over_entropy": 1.0}


def heldout(*changes):
    """Measurements every 10 steps, healthy except for the given changes."""
    return [HEALTHY | {"step": 10 * i} | change for i, change in enumerate(changes)]


def names(arm, metrics, scores=SCORES):
    return [finding.name for finding in diagnose(Objective(**arm), metrics, scores)]


@pytest.mark.parametrize(
    "arm",
    [{}, {"objective": "topk_tail"}, {"objective": "topk"}, {"refresh_every": 1}],
)
def test_a_healthy_arm_is_told_nothing(arm):
    assert names(arm, heldout({}, {"loss": 0.2})) == []
    assert names(arm, []) == []


@pytest.mark.parametrize(
    ("name", "arm", "changes"),
    [
        ("leaving_teacher", {"objective": "topk"}, [{}, {"kl_topk": 0.06}, {"kl_topk": 0.06}]),
        ("leaving_teacher", {"refresh_every": 1}, [{}, {"kl_topk": 0.09}, {"kl_topk": 0.06}]),
        ("heavy_tail", {}, [{"far_loss_share": 0.7}, {}]),
        ("rising_heldout", {}, [{}, {"kl_topk": 0.02}, {"kl_topk": 0.04}]),
        ("blind_estimator", {}, [{}, {"kl_sampled": 0.01}]),
        ("small_effective_sample", {}, [{}, {"ratio_ess": 0.2}]),
        ("ratio_off_one", {}, [{}, {"ratio_mean": 0.7}]),
        ("prefix_drift", {}, [{}, {"prefix_drift_rms": 9.0}]),
        ("leaking_mass", {"objective": "topk"}, [{}, {"student_covered": 0.8}]),
        ("growing_length", {"objective": "topk"}, [{}, {"length_mean": 30.0}]),
        ("falling_stop_rate", {"objective": "sft"}, [{}, {"stop_rate": 0.8}]),
    ],
)
def test_a_rule_fires_on_what_it_is_about(name, arm, changes):
    metrics = heldout(*changes)
    (finding,) = diagnose(Objective(**arm), metrics, SCORES)
    assert finding.name == name
    assert name in RULES
    assert finding.step in (0, metrics[-1]["step"])
    assert finding.sentence[0].islower() and finding.advice


def test_without_stored_top_k_it_is_the_loss_that_counts():
    metrics = [
        {key: value for key, value in line.items() if key != "kl_topk"}
        for line in heldout({}, {"loss": 0.1}, {"loss": 0.2})
    ]
    assert names({"objective": "sft"}, metrics) == ["rising_heldout"]
    assert best_step(metrics) == 10


def test_one_bad_measurement_is_not_leaving():
    assert names({}, heldout({}, {"kl_topk": 0.09}, {"kl_topk": 0.05})) == []
    assert names({}, heldout({}, {"kl_topk": 0.09})) == []


def test_stored_scores_alone_warn_before_training():
    first = heldout({})
    sharp = {"surprisal_over_entropy": 0.6}
    assert names({}, first, SCORES | sharp) == ["sharpened_rollouts"]
    assert names({"refresh_every": 1}, first, SCORES | sharp) == []
    assert names({"objective": "topk_tail"}, first, SCORES | sharp) == []
    low = heldout({"teacher_covered": 0.6})
    assert names({"objective": "topk"}, low) == ["low_coverage"]
    assert names({"objective": "topk_tail"}, low) == []


def test_a_live_arm_is_not_measured_by_the_references_rollouts():
    drifted = {"ratio_ess": 0.1, "ratio_mean": 0.5, "prefix_drift_rms": 9.0, "loss": 0.9,
               "kl_topk": 0.4}  # fmt: skip
    assert names({"refresh_every": 1}, heldout({}, drifted)) == []
    assert len(names({}, heldout({}, drifted))) == 4


def test_the_best_step_is_that_of_the_lowest_heldout_reverse_kl():
    train = [{"split": "train", "step": 15, "loss": 0.0}]
    assert best_step([*heldout({}, {"kl_topk": 0.01}, {"loss": 0.1}), *train]) == 10
    assert best_step(train) is None
