"""Learning curves of a run: one chart per measurement, one line per arm."""

from collections.abc import Mapping, Sequence

from leyden.report.charts import Line, line_chart
from leyden.report.parts import Curve
from leyden.run.graph import Graph
from leyden.run.layout import METRICS
from leyden.run.stage import SFT, Job, distill
from leyden.telemetry.metrics import Measurement, read_metrics

Chart = tuple[str, str, str]
"""The name of a metric, the chart's title, and its meaning."""
LOSS: Chart = ("loss", "Loss", "Dashed: held-out rollouts.")
CURVES: list[Chart] = [
    ("advantage_mean", "Advantage, mean", "Teacher minus student, nats per token."),
    ("advantage_min", "Advantage, worst token", "The most negative in the step, nats."),
    ("advantage_beyond_5", "Advantage beyond 5 nats", "Share of tokens: the heavy tail."),
    ("far_loss_share", "Loss from far tokens", "Share of the loss from advantages below -10 nats."),
    (
        "kl_topk",
        "Reverse KL, stored top k",
        "At stored prefixes, nats per token; a lower bound.",
    ),
    ("kl_sampled", "Reverse KL, sampled tokens", "The same from the sampled tokens alone."),
    ("drift_rms", "Drift from the reference", "Root mean square of log-prob change, nats."),
    (
        "prefix_drift_rms",
        "Drift of prefixes",
        "Root mean square log-ratio of prefixes, nats.",
    ),
    ("ratio_mean", "Importance weight, mean", "Of student / reference; 1 in expectation."),
    ("ratio_ess", "Effective sample size", "Of the ratios student / reference, share of tokens."),
    ("weight_ess", "Importance weights in use", "Their effective sample size, share of tokens."),
    ("student_covered", "Student's mass in the top k", "Low: the student leaves the stored ids."),
    ("length_mean", "Length of completions", "Of the student on held-out prompts, tokens."),
    ("stop_rate", "Stop rate", "Of these completions; the others reached the length cap."),
    ("grad_norm", "Gradient norm", "Before clipping."),
]


def metrics_of(graph: Graph, job: Job) -> list[Measurement]:
    """All measurements of a training job so far."""
    return read_metrics(graph.folder(job) / METRICS)


def sft_curves(graph: Graph) -> list[Curve]:
    """The loss of SFT."""
    return _curves({str(SFT): metrics_of(graph, SFT)}, {str(SFT): 2}, [LOSS])


def arm_curves(graph: Graph, colours: dict[str, int]) -> list[Curve]:
    """A loss chart per objective, since each has its own scale; then the charts of all arms."""
    arms = graph.run.arms()
    metrics = {arm: metrics_of(graph, distill(arm)) for arm in arms}
    charts: list[Curve] = []
    for objective in dict.fromkeys(settings.objective for settings in arms.values()):
        own = {arm: metrics[arm] for arm, s in arms.items() if s.objective == objective}
        charts += _curves(own, colours, [(LOSS[0], f"{LOSS[1]}: {objective}", LOSS[2])])
    weighted = any(settings.importance != "none" for settings in arms.values())
    return charts + _curves(metrics, colours, CURVES if weighted else _without_weights(CURVES))


def _without_weights(charts: Sequence[Chart]) -> list[Chart]:
    """The charts for arms whose importance weights are all 1."""
    return [chart for chart in charts if not chart[0].startswith("weight")]


def _curves(
    metrics: Mapping[str, Sequence[Measurement]],
    colours: dict[str, int],
    charts: Sequence[Chart],
) -> list[Curve]:
    """One curve per arm in each of ``charts`` (metric, title, meaning), dashed where held-out."""
    curves = []
    for key, title, meaning in charts:
        lines = [
            Line(f"{arm}, {split}", _points(rows, split, key), colours[arm], split == "heldout")
            for arm, rows in metrics.items()
            for split in ("train", "heldout")
        ]
        if any(line.points for line in lines):
            curves.append(Curve(title, meaning, line_chart(lines, label=title)))
    return curves


def _points(rows: Sequence[Measurement], split: str, key: str) -> list[tuple[float, float]]:
    own = ((r["step"], r[key]) for r in rows if r["split"] == split and key in r)
    return [point for point in own if all(map(_is_drawable, point))]


def _is_drawable(value: float) -> bool:
    return abs(value) < 1e100  # neither infinite nor NaN, nor an integer of hundreds of digits
