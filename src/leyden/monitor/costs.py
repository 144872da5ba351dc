"""What each arm cost in device-seconds, by what they were spent on; read from records alone."""

from leyden.recipe.training import Objective
from leyden.run.run import DISTILL, ROLLOUT, SCORE, TEACH, Run
from leyden.telemetry.clock import MEASURING, SAMPLING, SCORING, TRAINING

PHASES = (SAMPLING, SCORING, TRAINING, MEASURING)


def arm_costs(run: Run) -> dict[str, dict[str, float]]:
    """Finished arm -> device-seconds per phase, and ``shared_by``.

    An arm on stored data bears the sampling and scoring of the training prompts' part of its
    store, by tokens. ``shared_by`` arms read that same store: a student more costs only training.
    """
    found = {}
    for name, arm in run.arms().items():
        record = run.record(f"{DISTILL}/{name}")
        if record is not None:
            own = dict.fromkeys(PHASES, 0.0) | record.phases
            stored = {} if arm.refresh_every else _stored(run, arm)
            shared = sum(_same_store(arm, other) for other in run.arms().values())
            found[name] = {**own, **stored, "shared_by": 1 if arm.refresh_every else shared}
    return found


def _same_store(arm: Objective, other: Objective) -> bool:
    return not other.refresh_every and arm.reads_scores == other.reads_scores


def _stored(run: Run, arm: Objective) -> dict[str, float]:
    """Sampling and scoring of what a stored arm trains on."""
    if arm.objective == "sft":
        split = "opd" if run.recipe.teach.answer_opd_prompts else "sft"
        return {SAMPLING: _part(run, TEACH, TEACH, split)}
    return {
        SAMPLING: _part(run, ROLLOUT, ROLLOUT, "opd"),
        SCORING: _part(run, SCORE, ROLLOUT, "opd"),
    }


def _part(run: Run, job: str, sampled: str, split: str) -> float:
    """The device-seconds of ``job`` that went to one split of the rows of ``sampled``."""
    record, source = run.record(job), run.record(sampled)
    if record is None or source is None or not source.counts["tokens"]:
        return 0.0
    share = source.counts.get("split_tokens", {}).get(split, 0) / source.counts["tokens"]
    return record.device_seconds * share
