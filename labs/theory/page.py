"""Write the page and its plots."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

from page_text import Results, page

matplotlib.use("svg")
import matplotlib.pyplot as plt

STYLE = {
    "figure.figsize": (7, 3.2), "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False, "svg.hashsalt": "leyden",
    "font.size": 9,
}  # fmt: skip


def write_page(results: Results, verdicts: Mapping[str, bool], out: Path) -> None:
    """README.md and its plots in ``out``."""
    with plt.rc_context(STYLE):
        for name, draw in PLOTS.items():
            figure = draw(results)
            figure.tight_layout()
            figure.savefig(out / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)
    (out / "README.md").write_text(page(results, verdicts))


def _gap(results: Results):
    gap = results["gap_along_path"]
    figure, axis = plt.subplots()
    for key, label in (
        ("bound", "bound of Theorem 3.5"), ("gap", "gap"), ("prefix", "its prefix part"),
        ("action", "its action part"), ("online", "online gradient"),
    ):  # fmt: skip
        axis.plot(gap["share"][1:-1], gap[key][1:-1], label=label)  # at both ends all are zero
    axis.set_yscale("log")
    axis.set(xlabel="from the reference (0) to the teacher (1)", ylabel="norm")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _looseness(results: Results):
    loose = results["bound_against_length"]
    figure, axis = plt.subplots()
    axis.plot(loose["length"], loose["looseness"], marker="o")
    axis.set(xlabel="length, tokens", ylabel="bound / gap", yscale="log")
    return figure


def _covariance(results: Results):
    figure, axis = plt.subplots()
    axis.hist(results["covariance"]["changes"], bins=20)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(xlabel="offline minus online step, along the drift (below 0: less drift)", ylabel="n")
    return figure


def _bias(results: Results):
    bias = results["teacher_bias"]
    figure, axis = plt.subplots()
    axis.plot(bias["mix"], bias["bound"], label="bound: G sigma_Delta")
    axis.plot(bias["mix"], bias["offline"], label="offline gradient")
    axis.plot(bias["mix"], bias["online"], "--", label="online gradient")
    axis.set(xlabel="share of teacher B in the scorer", ylabel="change of the gradient, norm")
    axis.legend()
    return figure


def _k(results: Results):
    k = results["against_k"]
    figure, axis = plt.subplots()
    for key in ("renormalised", "tail"):
        axis.plot(k["k"], k[key], marker="o", label=key)
    axis.set(xlabel="k of V = 4", ylabel="KL to the teacher, nats", xticks=k["k"])
    axis.legend()
    return figure


PLOTS = {
    "gap": _gap, "looseness": _looseness, "covariance": _covariance, "bias": _bias, "k": _k,
}  # fmt: skip
