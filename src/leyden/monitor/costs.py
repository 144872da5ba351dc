"""The device-seconds that each arm cost, by what they were spent on; read from records alone."""

from dataclasses import dataclass
from typing import Any

from leyden.data.prompt_set import OPD_SPLIT, SFT_SPLIT
from leyden.recipe.training import Objective
from leyden.run.graph import Graph
from leyden.run.stage import ROLLOUT, SCORE, TEACH, Job, distill
from leyden.telemetry.neighbours import crowded


@dataclass(frozen=True)
class ArmCost:
    """Device-seconds of an arm by phase.

    An arm on stored data is charged its store's seconds of sampling and scoring, in proportion to
    the tokens of its training prompts. ``shared_by`` arms read the same store. One more student
    costs only its training.
    """

    sampling: float
    scoring: float
    training: float
    measuring: float
    shared_by: int

    @property
    def phases(self) -> dict[str, float]:
        """Phase -> device-seconds."""
        return {name: value for name, value in vars(self).items() if name != "shared_by"}

    @property
    def total(self) -> float:
        return sum(self.phases.values())


def arm_costs(graph: Graph) -> dict[str, ArmCost]:
    """Finished arm -> its cost."""
    costs, arms = {}, graph.run.arms()
    for name, arm in arms.items():
        record = graph.record(distill(name))
        if record is not None:
            sampling, scoring = _stored(graph, arm)
            shared = sum(_same_store(arm, other) for other in arms.values())
            own = record.phases
            costs[name] = ArmCost(
                sampling=own.get("sampling", 0.0) + sampling,
                scoring=own.get("scoring", 0.0) + scoring,
                training=own.get("training", 0.0),
                measuring=own.get("measuring", 0.0),
                shared_by=1 if arm.refresh_every else shared,
            )
    return costs


def crowded_arms(graph: Graph) -> list[str]:
    """A sentence for each finished arm that has seconds of a time when other programs filled the
    machine, so that they are too many."""
    sentences = []
    for name, arm in graph.run.arms().items():
        for job in (distill(name), *_jobs_behind(arm)):
            record = graph.record(job)
            if record is not None and crowded(facts := _numbers(record.environment)):
                used, cpus = facts["cpus_of_others"], facts["cpus"]
                sentences.append(
                    f"the device-seconds of {name} are too many: other programs used {used:.1f} of "
                    f"the machine's {cpus:.0f} CPUs while {job} was made"
                )
                break
    return sentences


def _jobs_behind(arm: Objective) -> tuple[Job, ...]:
    if arm.refresh_every:
        return ()
    return (TEACH,) if arm.objective == "sft" else (ROLLOUT, SCORE)


def _numbers(environment: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in environment.items() if isinstance(value, float)}


def _same_store(arm: Objective, other: Objective) -> bool:
    return not other.refresh_every and arm.reads_scores == other.reads_scores


def _stored(graph: Graph, arm: Objective) -> tuple[float, float]:
    """Device-seconds of sampling and scoring the store that an arm trains on."""
    if arm.refresh_every:
        return 0.0, 0.0  # it samples and scores by itself
    if arm.objective == "sft":
        split = OPD_SPLIT if graph.run.recipe.teach.answer_opd_prompts else SFT_SPLIT
        return _part(graph, TEACH, TEACH, split), 0.0
    return _part(graph, ROLLOUT, ROLLOUT, OPD_SPLIT), _part(graph, SCORE, ROLLOUT, OPD_SPLIT)


def _part(graph: Graph, job: Job, sampled: Job, split: str) -> float:
    """The device-seconds of ``job`` that went to one split of the rows of ``sampled``."""
    record, source = graph.record(job), graph.record(sampled)
    if record is None or source is None or not source.counts["tokens"]:
        return 0.0
    share = source.counts.get("split_tokens", {}).get(split, 0) / source.counts["tokens"]
    return record.device_seconds * share
