"""Write the parity lab's page and its plots from results/ alone."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from arms import TITLES
from page_stats import points
from page_tables import Results, load, page, seconds

matplotlib.use("svg")
import matplotlib.pyplot as plt


def write_page(results: Path, out: Path, tasks: Sequence[str], dev_seeds: Sequence[int]) -> None:
    for task in tasks:
        measured = load(results, task)
        if measured["one"]:
            plot(measured, out / f"{task}.svg", task)
    (out / "README.md").write_text(page(results, tasks, dev_seeds))


def plot(measured: Results, path: Path, task: str) -> None:
    """Plot accuracy against device-seconds of every arm: one teacher filled, two hollow."""
    style = {"axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": task,
             "axes.grid": True, "grid.alpha": 0.3, "font.size": 8}  # fmt: skip
    with plt.rc_context(style):
        figure, axis = plt.subplots(figsize=(8, 4))
        for number, (arm, title) in enumerate(TITLES.items()):
            if arm == "reference":
                axis.axhline(points(measured["one"], arm).mean(), color="grey", linestyle=":")
                continue
            for condition, face in (("one", f"C{number % 10}"), ("two", "none")):
                values = points(measured[condition], arm)
                marker = "os^Dv"[number // 10 + (number % 2)]
                label = title if condition == "one" else None
                error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0
                axis.errorbar(
                    seconds(measured[condition], arm).mean(), values.mean(), error,
                    marker=marker, linestyle="none",
                    color=f"C{number % 10}", markerfacecolor=face, label=label,
                )  # fmt: skip
        axis.set(
            xlabel="device-seconds of the arm alone; dotted: its reference",
            ylabel="accuracy, %",
            title=task,
        )
        axis.set_xlim(left=0)
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
