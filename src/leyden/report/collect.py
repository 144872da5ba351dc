"""Gather the content of the page from records, metrics and stores; no model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden.models.vocabulary import load_tokenizer
from leyden.monitor.diagnosis import Finding, best_step
from leyden.monitor.show import describe
from leyden.monitor.status import RunStatus, run_status
from leyden.report.benchmarks import Evaluated, Section, collect_benchmarks
from leyden.report.charts import Line, histogram, interval_chart, line_chart
from leyden.run.artifacts import open_artifact, open_prompts, tokenizer_folder
from leyden.run.graph import Graph
from leyden.run.layout import METRICS, SAMPLES
from leyden.run.run import REFERENCE
from leyden.run.stage import Artifact, Job
from leyden.run.table import (
    PROBLEMS,
    ROLLOUT,
    SCORE,
    SFT,
    STAGES,
    TEACH,
    distill,
    evaluate,
)
from leyden.store.reader import is_sealed, open_store
from leyden.telemetry.metrics import criterion, read_metrics

NUM_COMPLETIONS = 12
LOSS = ("loss", "Loss", "Dashed: held-out rollouts.")
CURVES = [  # metric, title, meaning
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


@dataclass(frozen=True)
class Curve:
    """A chart with its title and what it means."""

    title: str
    meaning: str
    svg: str


@dataclass(frozen=True)
class ArmRow:
    """An arm in the table of costs: when it was best on held-out completions, and what it cost."""

    name: str
    refresh_every: int
    best: int | None
    lowest: float
    steps: int
    last: float
    cost: dict[str, float]
    warnings: list[Finding]

    @property
    def total(self) -> float:
        return sum(self.cost.values())


def collect_run(graph: Graph) -> dict[str, Any]:
    """Everything the template needs about one run."""
    status, run = run_status(graph), graph.run
    colours = {model: index for index, model in enumerate(run.models())}
    return {
        "name": run.recipe.name,
        "root": str(run.root),
        "status": status,
        "stages": [s for s in status.stages if STAGES[s.name].artifact != Artifact.PROMPTS],
        "total_seconds": sum(job.device_seconds for job in status.jobs),
        "colours": colours,
        "accuracy": _accuracy(status, colours),
        "benchmarks": _benchmarks(graph),
        "overlap": status.overlap,
        "divergence": _divergence(status, colours),
        "sft": _curves({str(SFT): _metrics(graph, SFT)}, {str(SFT): 2}, [LOSS]),
        "curves": _arm_curves(graph, colours),
        "arms": _arms(graph, status),
        "lengths": _lengths(graph, colours),
        "completions": _completions(graph),
        "tail": _tail(graph),
        "lineage": _lineage(graph),
    }


def compare(statuses: Sequence[RunStatus]) -> list[dict[str, Any]]:
    """Per benchmark, every model's result in every run; None where a run lacks it."""
    tables = [status.results for status in statuses]
    models = dict.fromkeys(model for table in tables for model in table)
    names = dict.fromkeys(n for table in tables for results in table.values() for n in results)
    return [
        {
            "name": name,
            "rows": [
                {"model": model, "results": [table.get(model, {}).get(name) for table in tables]}
                for model in models
            ],
        }
        for name in names
    ]


def _benchmarks(graph: Graph) -> list[Section]:
    run = graph.run
    models = [
        Evaluated(model, graph.folder(evaluate(model)))
        for model in run.models()
        if graph.finished(evaluate(model))
    ]
    if not models or not run.recipe.evaluate.benchmarks:
        return []
    return collect_benchmarks(models, open_prompts(graph, PROBLEMS), against=REFERENCE)


def _accuracy(status: RunStatus, colours: dict[str, int]) -> dict[str, str]:
    """Benchmark -> chart of every model's accuracy."""
    names = {name for results in status.results.values() for name in results}
    return {
        name: interval_chart(
            [
                (model, r[name].result.accuracy, *r[name].result.interval, colours[model])
                for model, r in status.results.items()
            ],
            label=f"accuracy on {name}",
        )
        for name in sorted(names)
    }


def _divergence(status: RunStatus, colours: dict[str, int]) -> str:
    rows = [
        (model, measured.reverse_kl, *measured.interval, colours[model])
        for model, measured in status.divergence.items()
    ]
    return interval_chart(rows, label="reverse KL to the teacher", percent=False) if rows else ""


def _metrics(graph: Graph, job: Job) -> list[dict[str, Any]]:
    return read_metrics(graph.folder(job) / METRICS)


def _arm_curves(graph: Graph, colours: dict[str, int]) -> list[Curve]:
    """A loss chart per objective, since each has its own scale; then the charts of all arms."""
    arms = graph.run.arms()
    metrics = {arm: _metrics(graph, distill(arm)) for arm in arms}
    charts: list[Curve] = []
    for objective in dict.fromkeys(settings.objective for settings in arms.values()):
        own = {arm: metrics[arm] for arm, s in arms.items() if s.objective == objective}
        charts += _curves(own, colours, [(LOSS[0], f"{LOSS[1]}: {objective}", LOSS[2])])
    weighted = any(settings.importance != "none" for settings in arms.values())
    return charts + _curves(metrics, colours, CURVES if weighted else _without_weights(CURVES))


def _arms(graph: Graph, status: RunStatus) -> list[ArmRow]:
    rows = []
    for arm, settings in graph.run.arms().items():
        metrics = _metrics(graph, distill(arm))
        heldout = {m["step"]: criterion(m) for m in metrics if m["split"] == "heldout"}
        if heldout:
            cost = status.costs.get(arm)
            rows.append(
                ArmRow(
                    arm,
                    settings.refresh_every,
                    best_step(metrics),
                    min(heldout.values()),
                    max(heldout),
                    heldout[max(heldout)],
                    cost.phases if cost else {},
                    status.warnings.get(arm, []),
                )
            )
    return rows


def _without_weights(charts: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The charts for arms whose importance weights are all 1."""
    return [chart for chart in charts if not chart[0].startswith("weight")]


def _curves(
    metrics: dict[str, list[dict[str, Any]]],
    colours: dict[str, int],
    charts: Sequence[tuple[str, str, str]],
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


def _points(rows: list[dict[str, Any]], split: str, key: str) -> list[tuple[float, float]]:
    return [(r["step"], r[key]) for r in rows if r["split"] == split and key in r]


def _lengths(graph: Graph, colours: dict[str, int]) -> list[dict[str, Any]]:
    """Completion lengths and stop rates of the stores and of every evaluated model."""
    places = [(str(TEACH), graph.folder(TEACH), 0), (str(ROLLOUT), graph.folder(ROLLOUT), 2)]
    for benchmark in graph.run.recipe.evaluate.benchmarks:
        for model, colour in colours.items():
            folder = graph.folder(evaluate(model)) / SAMPLES / benchmark.name
            places.append((f"{model} on {benchmark.name}", folder, colour))
    return [_length(*place) for place in places if is_sealed(place[1])]


def _length(title: str, folder: Path, colour: int) -> dict[str, Any]:
    store = open_store(folder)
    lengths = store.lengths("completion_ids")
    return {
        "title": title,
        "svg": histogram(lengths, label=f"lengths of {title}", colour=colour),
        "mean": sum(lengths) / len(lengths),
        "stopped": store.values("finish_reason").count("stop") / len(store),
    }


def _completions(graph: Graph) -> list[dict[str, Any]]:
    """Scored rollouts from the worst mean advantage to the best, evenly spaced in rank."""
    if not graph.finished(SCORE):
        return []
    rollouts, scores = open_artifact(graph, ROLLOUT), open_artifact(graph, SCORE)
    means = [float((s["logp_teacher"] - s["logp_reference"]).mean()) for s in scores]
    ranked = sorted(range(len(means)), key=lambda i: means[i])
    count = min(NUM_COMPLETIONS, len(ranked))
    picked = [ranked[round(i * (len(ranked) - 1) / max(1, count - 1))] for i in range(count)]
    tokenizer = load_tokenizer(tokenizer_folder(graph))
    return [
        {"row": i, "mean": means[i], "shown": describe(rollouts[i], scores[i], tokenizer)}
        for i in picked
    ]


def _tail(graph: Graph) -> dict[str, float] | None:
    """The share of the sampled loss that rests on tokens which the teacher finds unlikely."""
    record = graph.record(SCORE)
    if record is None:
        return None
    counts = record.counts
    return {
        "tokens": counts["tokens_below_minus_10"],
        "loss": counts["their_share_of_sampled_loss"],
    }


def _lineage(graph: Graph) -> list[dict[str, Any]]:
    records = {job: graph.record(job) for job in graph.jobs}
    return [{"job": str(job), "record": r} for job, r in records.items() if r is not None]
