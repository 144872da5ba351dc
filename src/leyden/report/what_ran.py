"""What a run is of: its models, how each arm was trained, its recipe, and when it was made."""

from pathlib import Path
from typing import Any

from leyden.report.parts import TrainedArm, UsedEngine, UsedModel, WhatRan
from leyden.run.graph import Graph
from leyden.run.layout import RECIPE
from leyden.run.run import REFERENCE
from leyden.run.stage import SFT, distill


def what_ran(graph: Graph) -> WhatRan:
    """From records and the recipe alone."""
    records = [record for job in graph.jobs if (record := graph.record(job)) is not None]
    times = sorted(str(r.environment["finished"]) for r in records if "finished" in r.environment)
    return WhatRan(
        models=_models(graph),
        arms=[_arm(graph, name) for name in graph.run.arms()],
        seed=graph.run.recipe.seed,
        engines=used_engines(graph),
        recipe=(graph.run.root / RECIPE).read_text(encoding="utf-8"),
        finished=list(dict.fromkeys([*times[:1], *times[-1:]])),
    )


def used_engines(graph: Graph) -> list[UsedEngine]:
    """The engines that sampled and scored, job by job, as the processes themselves noted it."""
    used = []
    for job in graph.jobs:
        record = graph.record(job)
        for note in record.environment.get("engines", []) if record is not None else []:
            used.append(
                UsedEngine(str(job), _title(note["numerics"]), note["processes"], note["noise"])
            )
    return used


def _title(numerics: dict[str, Any]) -> str:
    """The engine's name, its version and dtype."""
    name = str(numerics.get("engine"))
    version = numerics.get(name, numerics.get("version", ""))
    parallel = numerics.get("tensor_parallel", 1)
    parts = [f"{name} {version}".strip(), str(numerics.get("dtype", ""))]
    parts += [f"on {parallel} devices each"] if parallel != 1 else []
    parts += [f"serving {numerics['served']}, by declaration"] if "served" in numerics else []
    return ", ".join(parts)


def _models(graph: Graph) -> list[UsedModel]:
    """Models from outside, each with the identity that records give it; then those made here."""
    roles: dict[tuple[str, str], list[str]] = {}
    for job in graph.jobs:
        record = graph.record(job)
        for role, identity in record.intent.models.items() if record is not None else ():
            known = roles.setdefault((_name(graph, role), identity.digest), [])
            if role not in known:
                known.append(role)
    used = [UsedModel(", ".join(sorted(n)), *place) for place, n in roles.items()]
    made = {SFT: f"{REFERENCE} (after SFT)"}
    made |= {distill(name): f"student, arm {name}" for name in graph.run.arms()}
    for job, role in made.items():
        if job in graph.jobs and (record := graph.record(job)) is not None:
            used.append(UsedModel(role, str(job), record.fingerprint))
    return used


def _name(graph: Graph, role: str) -> str:
    """The Hub id of a model, or the end of its path; the recipe has the whole of it."""
    address = graph.run.address(role)
    return "/".join(Path(address).parts[-2:]) if graph.run.is_local(role) else address


def _arm(graph: Graph, name: str) -> TrainedArm:
    settings, record = graph.run.arms()[name], graph.record(distill(name))
    return TrainedArm(
        name,
        settings.objective,
        settings.learning_rate,
        settings.steps,
        settings.batch_size,
        settings.refresh_every,
        None if record is None else record.counts.get("kept_step"),
    )
