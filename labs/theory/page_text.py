"""The page's text, from the results alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Results = Mapping[str, Any]


def page(results: Results, verdicts: Mapping[str, bool]) -> str:
    """README.md with the numbers of ``results``."""
    text = (Path(__file__).parent / "page.md.in").read_text()
    return text.format(**values(results, verdicts))


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
        "hurt": ",\n  ".join(f"`{name}`" for name in hurt(kl["bigram"])),
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
