"""The parity lab's page, from results/ alone."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arms import CONTROL, MAIN, ONLINE, ONLINE_EXACT, RATES, SHARP, TITLES, WHY_RATE
from experiment import STEPS
from page_fate import fate_table, warning_table, why_table
from page_stats import mean_error, paired, points
from tasks import TASKS

Results = dict[str, list[dict[str, Any]]]
"""Condition -> one result per seed, in the order of the seeds."""
PHASES = ("sampling", "scoring", "training")
ARMS = [arm for arm in TITLES if arm != "reference"]
PAIRS = (("sampled", ONLINE), ("exact", ONLINE_EXACT), ("topk_tail", ONLINE_EXACT))
DIFFERENCE = re.compile(r"\{(\w+):(\w+)-(\w+):(one|two|two-one)\}")


def page(results: Path, tasks: Sequence[str], dev_seeds: Sequence[int]) -> str:
    measured = {task: load(results, task) for task in tasks}
    sections = [section(results, task, measured[task], dev_seeds) for task in tasks]
    values = {
        "sections": "\n\n".join(filter(None, sections)),
        "steps": str(STEPS),
        "batch": " and ".join(sorted({str(TASKS[task].batch) for task in tasks})),
        "rates": ", ".join(f"{rate:g}" for rate in sorted(RATES)),
    }
    text = (Path(__file__).parent / "page.md.in").read_text()
    text = DIFFERENCE.sub(lambda match: difference(measured, *match.groups()), text)
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def difference(
    measured: Mapping[str, Results], task: str, arm: str, other: str, teachers: str
) -> str:
    """``arm`` minus ``other`` as the prose states it, under one condition or across both."""
    first, _, second = teachers.partition("-")
    runs = measured[task]
    return paired(points(runs[first], arm) - points(runs[second or first], other))


def section(results: Path, task: str, measured: Results, dev_seeds: Sequence[int]) -> str:
    """A task's tables; empty where nothing is measured."""
    if not measured["one"]:
        return ""
    one = measured["one"]
    return "\n\n".join(
        [
            f"## Task `{task}`, {len(one)} seeds",
            models_line(results, task, measured),
            accuracy_table(measured),
            pairs_line(measured),
            f"![Accuracy and cost](./{task}.svg)",
            "### What became of the student, one teacher",
            fate_table([(TITLES[arm], [run[arm] for run in one]) for arm in ARMS]),
            f"### Refreshes and momentum at the rate {WHY_RATE:g}, development seeds",
            why_table(results, task, dev_seeds),
            "### Device-seconds of each arm, one teacher",
            cost_table(one),
            "### Warnings, by what became of the arm",
            warning_table(measured),
        ]
    )


def load(results: Path, task: str) -> Results:
    paths = [path for path in results.glob(f"{task}-*.json") if path.stem.split("-")[1].isdigit()]
    runs = [
        json.loads(p.read_text()) for p in sorted(paths, key=lambda p: int(p.stem.split("-")[1]))
    ]
    return {condition: [run[condition] for run in runs] for condition in ("one", "two")}


def models_line(results: Path, task: str, measured: Results) -> str:
    one, two = measured["one"], measured["two"]
    path = results / f"{task}-teachers.json"
    learned = ""
    if path.exists():
        right = json.loads(path.read_text())
        first, second = (100 * np.array(right[condition]) for condition in ("one", "two"))
        learned = (
            f"\nOf the completions that students learn from, {mean_error(first)}% of the teacher's "
            f"are right and {mean_error(second)}% of the other's."
        )
    lengths = [np.mean([run["reference"]["mean_tokens"] for run in runs]) for runs in (one, two)]
    return (
        f"Teacher {mean_error(points(one, 'teacher'))}%, base {mean_error(points(one, 'base'))}%."
        f"{learned}\nThe reference policy's completions have {lengths[0]:.0f} tokens on average "
        f"with one teacher and {lengths[1]:.0f} with two.\nA rate with * is the lowest or highest "
        "of those tried."
    )


def accuracy_table(measured: Results) -> str:
    lines = ["| arm | rate | one teacher | minus SFT continued | minus standard OPD, same loss "
             "| two teachers | minus SFT continued | two minus one |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    one, two = measured["one"], measured["two"]
    for arm, title in TITLES.items():
        mine, theirs, live = points(one, arm), points(two, arm), online(one[0], arm)
        cells = [
            "" if arm == "reference" else rate_of(one[0][arm]),
            mean_error(mine),
            "" if arm == CONTROL else paired(mine - points(one, CONTROL)),
            "" if live is None else paired(mine - points(one, live)),
            mean_error(theirs),
            "" if arm == CONTROL else paired(theirs - points(two, CONTROL)),
            paired(theirs - mine),
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rate_of(about: Mapping) -> str:
    rate = about["settings"]["learning_rate"]
    return f"{rate:g}{'*' if rate in (min(RATES), max(RATES)) else ''}"


def online(run: Mapping, arm: str) -> str | None:
    """The standard-OPD arm with the same kind of loss. None for that arm itself, and for SFT."""
    if arm in (CONTROL, ONLINE, ONLINE_EXACT) or arm not in MAIN | SHARP:
        return None
    return ONLINE if run[arm]["settings"].get("objective", "sampled") == "sampled" else ONLINE_EXACT


def pairs_line(measured: Results) -> str:
    """Offline minus online for arms of the same loss, or nearly."""
    lines = ["| offline minus online | one teacher | two teachers |", "|---|---|---|"]
    for stored, live in PAIRS:
        cells = [paired(points(runs, stored) - points(runs, live)) for runs in measured.values()]
        lines.append(f"| {TITLES[stored]} minus {TITLES[live]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cost_table(one: Sequence[Mapping]) -> str:
    """Means over seeds. A stored arm is charged for its whole store. Another student of the same
    reference and store is charged for its training alone."""
    lines = ["| arm | sampling | scoring | training | in all | standard OPD, same loss / this "
             "| another student of that reference | standard OPD, same loss / that |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for arm in ARMS:
        parts = np.array([[run[arm]["costs"][phase] for phase in PHASES] for run in one])
        live = online(one[0], arm)
        whole = seconds(one, arm)
        cells = [f"{part:.1f}" for part in parts.mean(0)] + [mean_error(whole)]
        if live is None or "refresh_every" in one[0][arm]["settings"]:
            cells += [ratio(one, live, whole), "", ""]
        else:
            further = parts[:, 2]
            cells += [ratio(one, live, whole), mean_error(further), ratio(one, live, further)]
        lines.append(f"| {TITLES[arm]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio(one: Sequence[Mapping], live: str | None, values: np.ndarray) -> str:
    return "" if live is None else f"{mean_error(seconds(one, live) / values)}x"


def seconds(one: Sequence[Mapping], arm: str) -> np.ndarray:
    """One per seed."""
    return np.array([sum(run[arm]["costs"][phase] for phase in PHASES) for run in one])
