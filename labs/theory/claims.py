"""The claims of the page as statements about the results. A false one fails the run."""

from collections.abc import Mapping
from typing import Any

ROUNDING = 1e-9
Results = Mapping[str, Any]


def check(results: Results) -> dict[str, bool]:
    """Claim -> whether the numbers agree with it."""
    gap, bias = results["gap_along_path"], results["teacher_bias"]
    optimum, kl = results["shared_optimum"], results["final_kl"]
    tabular, bigram = kl["tabular"], kl["bigram"]
    k, drawn = results["against_k"], results["sampling"]
    loose = results["bound_against_length"]["looseness"]
    return {
        "the clipped policy gradient is the Huber loss's descent direction": (
            results["regression_identity"]["relative_gap"] < ROUNDING
        ),
        "tabular: online and offline end at the teacher, whoever wrote the SFT data": (
            max(optimum["tabular"].values()) < 1e-3
        ),
        "bigram: offline ends further from the teacher than online": (
            optimum["bigram"]["offline, A wrote the SFT data"]
            > optimum["bigram"]["online, A wrote the SFT data"]
        ),
        "prefix and action part add up to the gap": max(gap["identity"]) < ROUNDING,
        "the gap is zero at the reference": gap["gap"][0] < ROUNDING,
        "Theorem 3.5 holds along the path": all(
            g <= b + ROUNDING for g, b in zip(gap["gap"], gap["bound"], strict=True)
        ),
        "the action part is most of the gap halfway": (
            gap["action"][len(gap["gap"]) // 2] > 2 * gap["prefix"][len(gap["gap"]) // 2]
        ),
        "Theorem 3.5 loosens with length": loose[-1] > loose[0],
        "Theorem 3.7 is an identity": results["covariance"]["identity"] < ROUNDING,
        "Theorems 3.8 and 3.9: the bias at the reference is under G sigma_Delta": all(
            value <= bound + ROUNDING
            for key in ("offline", "online")
            for value, bound in zip(bias[key], bias["bound"], strict=True)
        ),
        "tabular: training on a second teacher's scores ends at that teacher": (
            max(bias["kl_to_scorer"]) < 1e-2
        ),
        "token weights give the exact reverse KL's step in expectation": (
            abs(tabular["+ token weights"][0] - tabular["Lightning, exact"][0])
            < 0.2 * tabular["Lightning, exact"][0] + 1e-6
        ),
        "a frozen advantage does not come closer to the teacher": (
            tabular["frozen advantage"][0] > tabular["before (the reference)"][0] - 0.1
        ),
        "bigram: a second teacher costs the exact offline estimator more than standard OPD": (
            bigram["Lightning, exact"][4] > bigram["standard OPD, exact"][4]
        ),
        "the tail bucket beats renormalising at every k below V": all(
            t < r for t, r in zip(k["tail"][:3], k["renormalised"][:3], strict=True)
        ),
        "sharpened rollouts cost the sampled loss": all(
            drawn[name]["Lightning, sampled, T 0.7, top-p 0.9"][0]
            > drawn[name]["Lightning, sampled, T 1"][0]
            for name in drawn
        ),
    }
