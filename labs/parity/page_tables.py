"""The parity lab's tables, from results/ alone: means, intervals, counts of warnings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arms import CONTROL, ONLINE, ONLINE_EXACT, TITLES, WHY
from leyden.arms import Objective
from leyden.diagnosis import diagnose

Results = dict[str, list[dict[str, Any]]]
"""Condition -> one result per seed, in the order of the seeds."""
RESAMPLES = 10_000
PHASES = ("sampling", "scoring", "training")
WHY_TITLES = {arm: arm.removeprefix("why_").replace("_", " ") for arm in WHY}
FAILS, WORKS = "fails", "works"


def page(results: Path, tasks: Sequence[str], dev_seeds: Sequence[int]) -> str:
    text = (Path(__file__).parent / "page.md.in").read_text()
    sections = [section(results, task, dev_seeds) for task in tasks]
    return text.replace("{sections}", "\n\n".join(filter(None, sections)))


def section(results: Path, task: str, dev_seeds: Sequence[int]) -> str:
    """A task's tables; empty where nothing is measured."""
    found = load(results, task)
    if not found["one"]:
        return ""
    return "\n\n".join(
        [
            f"## Task `{task}`, {len(found['one'])} seeds",
            models_line(found),
            accuracy_table(found),
            pairs_line(found),
            f"![Accuracy and cost](./{task}.svg)",
            "### What became of the student, one teacher",
            fate_table([(title, [r[arm] for r in found["one"]]) for arm, title in TITLES.items()]),
            "### Why a few refreshes are worse than none, development seeds",
            why_table(results, task, dev_seeds),
            "### Device-seconds of each arm, one teacher",
            cost_table(found),
            "### Warnings, by what became of the arm",
            warning_table(found),
        ]
    )


def load(results: Path, task: str) -> Results:
    paths = [path for path in results.glob(f"{task}-*.json") if path.stem.split("-")[1].isdigit()]
    runs = [
        json.loads(p.read_text()) for p in sorted(paths, key=lambda p: int(p.stem.split("-")[1]))
    ]
    return {condition: [run[condition] for run in runs] for condition in ("one", "two")}


def points(runs: Sequence[Mapping], model: str) -> np.ndarray:
    """Accuracy in points, one per seed."""
    return np.array([100 * run[model]["accuracy"] for run in runs])


def mean_error(values: np.ndarray, *, signed: bool = False) -> str:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{values.mean():{'+' if signed else ''}.1f} ± {error:.1f}"


def paired(values: np.ndarray) -> str:
    """Mean of paired differences with its 95% bootstrap interval over seeds."""
    rng = np.random.default_rng(0)
    draws = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(-1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{values.mean():+.1f} [{low:+.1f}, {high:+.1f}]"


def models_line(found: Results) -> str:
    one = found["one"]
    return (
        f"Teacher {mean_error(points(one, 'teacher'))}%, base {mean_error(points(one, 'base'))}%; "
        f"answers of the reference: {np.mean([r['reference']['mean_tokens'] for r in one]):.0f} "
        "tokens on average. Accuracy in %, mean ± standard error over seeds; differences paired by "
        "seed with 95% bootstrap intervals."
    )


def accuracy_table(found: Results) -> str:
    lines = ["| arm | rate | one teacher | minus SFT continued | minus standard OPD | two teachers "
             "| two minus one |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    one, two = found["one"], found["two"]
    for arm, title in TITLES.items():
        rate = "" if arm == "reference" else f"{one[0][arm]['settings']['learning_rate']:g}"
        mine = points(one, arm)
        cells = [
            rate,
            mean_error(mine),
            "" if arm == CONTROL else paired(mine - points(one, CONTROL)),
            "" if arm == ONLINE else paired(mine - points(one, ONLINE)),
            mean_error(points(two, arm)),
            paired(points(two, arm) - mine),
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


FATE = {
    "kl_topk": "reverse KL",
    "ratio_ess": "effective sample",
    "prefix_drift_rms": "prefix drift",
    "length_mean": "tokens",
    "stop_rate": "stop rate",
}


def fate_table(arms: Sequence[tuple[str, Sequence[Mapping]]]) -> str:
    """Held-out measurements at the end, means over seeds; the reverse KL at every measurement."""
    lines = [f"| arm | accuracy | {' | '.join(FATE.values())} |", "|---|---|" + "---|" * len(FATE)]
    for title, runs in arms:
        if "heldout" not in runs[0]:
            continue
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
    """The arms of WHY; empty where they were not run."""
    paths = [results / f"{task}-why-{seed}.json" for seed in dev_seeds]
    runs = [json.loads(path.read_text()) for path in paths if path.exists()]
    if not runs:
        return "not run"
    return fate_table([(title, [run[arm] for run in runs]) for arm, title in WHY_TITLES.items()])


PAIRS = (("sampled", ONLINE), ("exact", ONLINE_EXACT), ("topk_tail", ONLINE_EXACT))


def pairs_line(found: Results) -> str:
    """Offline minus online where the loss is the same, or nearly."""
    one, two = found["one"], found["two"]
    said = [
        f"{TITLES[stored]} minus {TITLES[live]}: {paired(points(one, stored) - points(one, live))} "
        f"with one teacher, {paired(points(two, stored) - points(two, live))} with two."
        for stored, live in PAIRS
    ]
    return "Offline minus online by the same loss. " + " ".join(said)


def cost_table(found: Results) -> str:
    """Means over seeds; a stored arm bears its whole store, and a further student its training."""
    lines = ["| arm | sampling | scoring | training | in all | standard OPD / this | a further "
             "student | standard OPD / that |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    online = total(found, ONLINE)
    for arm, title in TITLES.items():
        if arm == "reference":
            continue
        seconds = [np.mean([run[arm]["costs"][p] for run in found["one"]]) for p in PHASES]
        stored = "refresh_every" not in found["one"][0][arm]["settings"]
        further = seconds[2] if stored else sum(seconds)
        cells = [f"{s:.1f}" for s in (*seconds, sum(seconds))]
        cells += [f"{online / sum(seconds):.1f}x", f"{further:.1f}", f"{online / further:.1f}x"]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def total(found: Results, arm: str) -> float:
    return float(np.mean([sum(run[arm]["costs"][p] for p in PHASES) for run in found["one"]]))


def verdict(run: Mapping, arm: str) -> str:
    """An arm fails when its student is no better than the reference that it started from."""
    return WORKS if run[arm]["accuracy"] > run["reference"]["accuracy"] else FAILS


def warnings(about: Mapping) -> set[str]:
    """The rules that fire on an arm's held-out measurements, with the package's limits of today."""
    scores = {"surprisal_over_entropy": about["surprisal_over_entropy"]}
    arm = Objective.model_validate(about["settings"])
    return {finding.name for finding in diagnose(arm, about["heldout"], scores)}


def warning_table(found: Results) -> str:
    """Rule -> how many of the arms that failed and of those that worked it fired on."""
    cases = [(verdict(run, arm), warnings(run[arm])) for runs in found.values() for run in runs
             for arm in TITLES if arm != "reference"]  # fmt: skip
    sizes = {kind: sum(v == kind for v, _ in cases) for kind in (FAILS, WORKS)}
    lines = [f"| warning | of {sizes[FAILS]} that fail | of {sizes[WORKS]} that work |",
             "|---|---|---|"]  # fmt: skip
    names = sorted({name for _, names in cases for name in names})
    for name in names:
        counts = (sum(v == kind and name in fired for v, fired in cases) for kind in sizes)
        lines.append(f"| `{name}` | {' | '.join(map(str, counts))} |")
    silent = (sum(v == kind and not fired for v, fired in cases) for kind in sizes)
    lines.append(f"| none at all | {' | '.join(map(str, silent))} |")
    return "\n".join(lines)
