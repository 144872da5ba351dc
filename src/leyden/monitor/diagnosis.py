"""Warn of an arm that goes wrong, from stored scores and held-out rollouts, while it can be saved.

Every rule reads numbers of a record or of metrics.jsonl. It gives no finding, or one with the
value, the limit and what to do. ``labs/parity`` counts how often each rule fires on arms that fail
and on arms that work.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leyden.recipe.training import Objective
from leyden.run.graph import Graph
from leyden.run.layout import METRICS
from leyden.run.stage import SCORE, distill
from leyden.telemetry.metrics import criterion, read_metrics

LEAVING = 1.0  # held-out reverse KL by the stored top k, over what it was before training
NOISE = 1e-3  # nats; below this two measurements are the same
FAR_SHARE = 0.5  # of the sampled loss, from tokens that the teacher finds 10 nats less likely
SHARPENED = 0.8  # surprisal of the rollouts over the reference's entropy; 1 when sampled at T = 1
RISE = 1.2  # of held-out reverse KL, or loss, over its lowest
ESS = 0.5  # effective sample size of the ratios, share of the tokens
RATIO = 0.1  # distance of the mean ratio from 1, its expectation
BLIND = 3.0  # reverse KL by the stored top k over that by the sampled tokens
PREFIX = 0.6  # nats per root of the completion's tokens; root mean square log-ratio of a prefix
LONGER, STOP = 1.25, 0.05  # growth of the mean length; fall of the stop rate
COVERED, LEAK = 0.9, 0.05  # mass inside the top k; its fall while training

RULES = (
    "leaving_teacher", "heavy_tail", "sharpened_rollouts", "rising_heldout", "blind_estimator",
    "small_effective_sample", "ratio_off_one", "prefix_drift", "low_coverage", "leaking_mass",
    "growing_length", "falling_stop_rate",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A warning: the rule's ``name``, and the ``step`` of the measurement that it is about."""

    name: str
    step: int
    sentence: str
    advice: str


def diagnose_arm(graph: Graph, arm: str) -> list[Finding]:
    """The findings about an arm so far, from its metrics and the scores that it trains on."""
    record = graph.record(SCORE)
    scores = record.counts if record else {}
    metrics = read_metrics(graph.folder(distill(arm)) / METRICS)
    return diagnose(graph.run.arms()[arm], metrics, scores)


def diagnose(
    arm: Objective, metrics: Sequence[Mapping[str, Any]], scores: Mapping[str, Any]
) -> list[Finding]:
    """The findings of all rules at the newest held-out measurement. ``scores`` are the counts of
    the score stage's record."""
    heldout = [line for line in metrics if line["split"] == "heldout"]
    if not heldout:
        return []
    rules: list[Callable[..., Iterator[Finding]]] = [_leaving, _longer]
    if not arm.refresh_every:  # held-out rollouts are the reference's: no measure of a live arm
        rules.append(_rising)
    if arm.objective == "sampled":  # a dense loss is right at any prefix, whatever was sampled
        rules += [_sharpened, _drifted, _blind] if arm.reads_scores else []
        rules.append(_heavy_tail)
    if arm.objective != "sft":
        rules.append(_leaking)
    return [finding for rule in rules for finding in rule(arm, heldout, scores)]


def best_step(metrics: Sequence[Mapping[str, Any]]) -> int | None:
    """The step with the best held-out measurement; None where nothing was measured."""
    heldout = [line for line in metrics if line["split"] == "heldout"]
    return min(heldout, key=criterion)["step"] if heldout else None


def _leaving(arm, heldout, scores) -> Iterator[Finding]:
    """No closer to the teacher than before training, twice in a row.

    This holds for a live arm too: its student must come closer on the reference's rollouts.
    """
    measured = [line["kl_topk"] for line in heldout if "kl_topk" in line]
    needed = 2 if arm.eval_every else 1
    newest = measured[1:][-needed:]
    if len(newest) == needed and min(newest) > LEAVING * measured[0] + NOISE:
        yield Finding(
            "leaving_teacher",
            heldout[-1]["step"],
            f"held-out reverse KL to the teacher is {newest[-1]:.3g} nats, and was "
            f"{measured[0]:.3g} before training",
            "match stored top-k scores with objective = 'topk_tail', or lower the rate"
            if arm.objective == "sampled"
            else "lower the learning rate",
        )


def _heavy_tail(arm, heldout, scores) -> Iterator[Finding]:
    """Before training: a handful of tokens are most of the sampled loss."""
    share = heldout[0].get("far_loss_share", 0.0)
    if share > FAR_SHARE:
        yield Finding(
            "heavy_tail",
            heldout[0]["step"],
            f"tokens that the teacher finds 10 nats less likely make up {share:.0%} of the loss "
            f"before training (limit {FAR_SHARE:.0%})",
            "lower advantage_clip, or match stored top-k scores with objective = 'topk_tail'",
        )


def _sharpened(arm, heldout, scores) -> Iterator[Finding]:
    """Before training: the rollouts were not sampled at temperature 1."""
    if _is_sharp(scores):
        ratio = scores["surprisal_over_entropy"]
        yield Finding(
            "sharpened_rollouts",
            0,
            f"the rollouts are {ratio:.2f} times as surprising to the reference as its own samples "
            f"(limit {SHARPENED}): temperature or top-p left its rarer tokens out",
            "set rollout.temperature = 1 and rollout.top_p = 1 and roll out again, or use "
            "objective = 'topk_tail'",
        )


def _rising(arm, heldout, scores) -> Iterator[Finding]:
    """Held-out reverse KL, or loss, above its lowest."""
    best, last = min(heldout, key=criterion), heldout[-1]
    if "kl_topk" in last and best is heldout[0]:
        return  # the rule leaving_teacher reports this, where it lasts
    low, now = criterion(best), criterion(last)
    if now > low + (RISE - 1) * abs(low) + NOISE:
        what = "reverse KL" if "kl_topk" in last else "loss"
        yield Finding(
            "rising_heldout",
            last["step"],
            f"held-out {what} is {now:.4g}, and was {low:.4g} at step {best['step']} "
            f"(limit {RISE} times)",
            "stop there with patience, or lower the learning rate",
        )


def _blind(arm, heldout, scores) -> Iterator[Finding]:
    """The student gives mass to tokens that were not sampled, which the sampled loss cannot see."""
    last = heldout[-1]
    dense, sampled = last.get("kl_topk"), last.get("kl_sampled")
    if dense is None or sampled is None or _is_sharp(scores):
        return
    if dense > BLIND * max(sampled, 1e-3):
        yield Finding(
            "blind_estimator",
            last["step"],
            f"reverse KL to the teacher is {dense:.3g} nats by the stored top k and {sampled:.3g} "
            f"by the sampled tokens (limit {BLIND} times): the student gives mass to tokens that "
            "the rollouts do not hold",
            "use objective = 'topk_tail' on the same scores, a lower rate, or refresh_every",
        )


def _is_sharp(scores) -> bool:
    return scores.get("surprisal_over_entropy", 1.0) < SHARPENED


def _drifted(arm, heldout, scores) -> Iterator[Finding]:
    """The rollouts are no longer the student's own."""
    last = heldout[-1]
    ess, ratio, prefix = (last.get(k) for k in ("ratio_ess", "ratio_mean", "prefix_drift_rms"))
    if ess is not None and ess < ESS:
        yield Finding(
            "small_effective_sample",
            last["step"],
            f"the ratios student / reference have an effective sample size of {ess:.0%} of the "
            f"tokens (limit {ESS:.0%})",
            "few tokens carry the weight: fewer steps, a lower rate, or refresh_every",
        )
    if ratio is not None and abs(ratio - 1) > RATIO and not _is_sharp(scores):
        yield Finding(
            "ratio_off_one",
            last["step"],
            f"the mean ratio student / reference is {ratio:.3f}, and 1 in expectation "
            f"(limit {RATIO} away)",
            "the student's mass is not where the rollouts are: a lower rate, or refresh_every",
        )
    length = last.get("length_mean")
    if prefix is not None and length and prefix > PREFIX * length**0.5:
        yield Finding(
            "prefix_drift",
            last["step"],
            f"prefixes of the rollouts are {prefix:.1f} nats more or less likely under the student "
            f"than under the reference (root mean square, limit {PREFIX} times the root of the "
            "length)",
            "the stored prefixes are no longer the student's own: refresh_every, or fewer steps",
        )


def _leaking(arm, heldout, scores) -> Iterator[Finding]:
    """Mass outside the stored ids, which the renormalised top k leaves free."""
    first, last = heldout[0], heldout[-1]
    covered = first.get("teacher_covered", 1.0)
    if arm.objective == "topk" and covered < COVERED:
        yield Finding(
            "low_coverage",
            0,
            f"the stored top k hold {covered:.0%} of the teacher's mass (limit {COVERED:.0%}), and "
            "'topk' leaves the student free outside them",
            "use objective = 'topk_tail', or a larger score.top_k",
        )
    if "student_covered" in last and last["student_covered"] < first["student_covered"] - LEAK:
        yield Finding(
            "leaking_mass",
            last["step"],
            f"the student's mass inside the stored top k fell from "
            f"{first['student_covered']:.1%} to {last['student_covered']:.1%}",
            "use objective = 'topk_tail', or a lower rate",
        )


def _longer(arm, heldout, scores) -> Iterator[Finding]:
    """Completions grow, or stop less often by themselves."""
    measured = [line for line in heldout if "length_mean" in line]
    if not measured:
        return
    first, last = measured[0], measured[-1]
    if last["length_mean"] > LONGER * first["length_mean"]:
        yield Finding(
            "growing_length",
            last["step"],
            f"completions grew from {first['length_mean']:.1f} to {last['length_mean']:.1f} tokens "
            f"(limit {LONGER} times)",
            "look at the stop token's advantage in the report; lower the rate or use 'topk_tail'",
        )
    noise = 2 * (2 * STOP * (1 - STOP) / max(arm.heldout_samples, 1)) ** 0.5
    if last["stop_rate"] < first["stop_rate"] - max(STOP, noise):
        yield Finding(
            "falling_stop_rate",
            last["step"],
            f"completions that stop by themselves fell from {first['stop_rate']:.0%} to "
            f"{last['stop_rate']:.0%}",
            "look at the stop token's advantage in the report; lower the rate or use 'topk_tail'",
        )
