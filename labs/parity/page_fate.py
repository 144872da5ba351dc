"""Tables about the students: their held-out measurements, and the warnings that these cause."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arms import TITLES, WHY
from experiment import TEST
from leyden.monitor.diagnosis import RULES, diagnose
from leyden.recipe.training import Objective

FATE = {
    "kl_topk": "reverse KL, every 10 steps",
    "ratio_ess": "effective sample",
    "prefix_drift_rms": "prefix drift",
    "length_mean": "tokens",
    "stop_rate": "stop rate",
}
MISTAKES = ("eos_unscored", "frozen")
FAILS, UNDECIDED, WORKS = "worse than its reference", "within 2 standard errors", "better"


def fate_table(arms: Sequence[tuple[str, Sequence[Mapping]]]) -> str:
    """The last held-out measurements as means over seeds, and the reverse KL at each of them."""
    lines = [f"| arm | accuracy | {' | '.join(FATE.values())} |", "|---|---|" + "---|" * len(FATE)]
    for title, runs in arms:
        cells = [f"{100 * np.mean([run['accuracy'] for run in runs]):.1f}"]
        for name in FATE:
            measured = [[line.get(name) for line in run["heldout"]] for run in runs]
            if measured[0][-1] is None:
                cells.append("")
            elif name == "kl_topk":
                cells.append(" ".join(f"{v:.3g}" for v in np.mean(measured, axis=0)))
            else:
                cells.append(f"{np.mean([m[-1] for m in measured]):.3g}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def why_table(results: Path, task: str, dev_seeds: Sequence[int]) -> str:
    """The arms of WHY, or a sentence that they were not run."""
    paths = [results / f"{task}-why-{seed}.json" for seed in dev_seeds]
    runs = [json.loads(path.read_text()) for path in paths if path.exists()]
    if not runs:
        return "Not run."
    titles = {arm: arm.removeprefix("why_").replace("_", " ") for arm in WHY}
    return fate_table([(title, [run[arm] for run in runs]) for arm, title in titles.items()])


def verdict(run: Mapping, arm: str) -> str:
    """Whether an arm is worse than its reference on the test problems, as good, or better."""
    after, before = run[arm]["accuracy"], run["reference"]["accuracy"]
    error = ((after * (1 - after) + before * (1 - before)) / TEST) ** 0.5
    if abs(after - before) <= 2 * error:
        return UNDECIDED
    return WORKS if after > before else FAILS


def warnings(about: Mapping) -> set[str]:
    """The rules that fire on an arm's held-out measurements, with the package's present limits."""
    scores = {"surprisal_over_entropy": about["surprisal_over_entropy"]}
    arm = Objective.model_validate(about["settings"])
    return {finding.name for finding in diagnose(arm, about["heldout"], scores)}


def column(kind: str, teachers: str) -> str:
    return f"{kind}, {teachers} teacher{'s' * (teachers == 'two')}"


def warning_table(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Rule -> the number of arms on which it fired, by verdict and teachers."""
    kinds: dict[str, list[set[str]]] = {
        column(kind, teachers): [] for teachers in measured for kind in (FAILS, UNDECIDED, WORKS)
    }
    kinds["mistakes"] = []
    for teachers, run in ((t, run) for t, runs in measured.items() for run in runs):
        for arm in TITLES:
            if arm != "reference":
                kind = "mistakes" if arm in MISTAKES else column(verdict(run, arm), teachers)
                kinds[kind].append(warnings(run[arm]))
    heads = [f"{kind}: {len(fired)}" for kind, fired in kinds.items()]
    lines = [f"| warning | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for name in RULES:
        counts = (str(sum(name in fired for fired in arms)) for arms in kinds.values())
        lines.append(f"| `{name}` | {' | '.join(counts)} |")
    silent = (str(sum(not fired for fired in arms)) for arms in kinds.values())
    return "\n".join([*lines, f"| none | {' | '.join(silent)} |"])
