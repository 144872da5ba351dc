"""The page: plots, and under each what the paper says, what is proved and what is seen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

Results = Mapping[str, Any]
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
    text = (Path(__file__).parent / "page.md.in").read_text()
    (out / "README.md").write_text(text.format(**values(results, verdicts)))


def values(results: Results, verdicts: Mapping[str, bool]) -> dict[str, str]:
    """The numbers that the page quotes."""
    gap, optimum, kl = (results[n] for n in ("gap_along_path", "shared_optimum", "final_kl"))
    bias, cov, k = (results[n] for n in ("teacher_bias", "covariance", "against_k"))
    loose = results["bound_against_length"]["looseness"]
    middle = len(gap["gap"]) // 2
    return {
        "identity": f"{results['regression_identity']['relative_gap']:.0e}",
        "tabular_worst": f"{max(optimum['tabular'].values()):.0e}",
        "bigram_online": f"{optimum['bigram']['online, A wrote the SFT data']:.3f}",
        "bigram_offline": f"{optimum['bigram']['offline, A wrote the SFT data']:.3f}",
        "bigram_offline_b": f"{optimum['bigram']['offline, B wrote the SFT data']:.3f}",
        "parts": f"{max(gap['identity']):.0e}",
        "loose_path": f"{gap['bound'][middle] / gap['gap'][middle]:.0f}",
        "loose_1": f"{loose[0]:.1f}",
        "loose_6": f"{loose[-1]:.0f}",
        "bias_ratio": f"{bias['bound'][-1] / bias['offline'][-1]:.1f}",
        "scorer": f"{max(bias['kl_to_scorer']):.0e}",
        "cov_identity": f"{cov['identity']:.0e}",
        "less_drift": f"{cov['share_with_less_drift']:.0%}",
        "k2_tail": f"{k['tail'][1]:.3f}",
        "k2_renormalised": f"{k['renormalised'][1]:.3f}",
        "hurt": "; ".join(hurt(kl["bigram"])),
        "table": table(kl),
        "sampling": sampling_table(results["sampling"]),
        "claims": "\n".join(f"- {'holds' if v else '**fails**'}: {c}" for c, v in verdicts.items()),
    }


def hurt(rows: Mapping[str, list[float]]) -> list[str]:
    """Estimators whose paired difference, two teachers minus one, exceeds two standard errors."""
    return [name for name, r in rows.items() if r[4] > 2 * r[5] and not name.startswith("before")]


def table(kl: Mapping[str, Mapping[str, list[float]]]) -> str:
    lines = ["| estimator | tabular, one teacher | two | bigram, one teacher | two | two - one |"]
    lines += ["|---|---|---|---|---|---|"]
    for name in kl["tabular"]:
        t, b = kl["tabular"][name], kl["bigram"][name]
        cells = [t[0:2], t[2:4], b[0:2], b[2:4], b[4:6]]
        lines.append(f"| {name} | " + " | ".join(f"{m:.3f} ± {e:.3f}" for m, e in cells) + " |")
    return "\n".join(lines)


def sampling_table(drawn: Mapping[str, Mapping[str, list[float]]]) -> str:
    lines = ["| rollouts | tabular | bigram |", "|---|---|---|"]
    for name in drawn["tabular"]:
        cells = (drawn[family][name] for family in ("tabular", "bigram"))
        lines.append(f"| {name} | " + " | ".join(f"{m:.3f} ± {e:.3f}" for m, e in cells) + " |")
    return "\n".join(lines)


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
