"""What the page shows, gathered from records, metrics and stores; no model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from leyden.models.vocabulary import load_tokenizer
from leyden.monitor.diagnosis import best_step
from leyden.monitor.show import describe
from leyden.monitor.status import REFERENCE, run_status
from leyden.report.benchmarks import Evaluated, collect_benchmarks
from leyden.report.charts import Line, histogram, interval_chart, line_chart
from leyden.run.artifacts import open_artifact, open_prompts, tokenizer_folder
from leyden.run.run import DISTILL, EVALUATE, PROBLEMS, ROLLOUT, SCORE, SFT, TEACH, Run
from leyden.store.reader import open_store
from leyden.telemetry.metrics import METRICS, criterion, read_metrics

NUM_COMPLETIONS = 12
LOSS = ("loss", "Loss", "Dashed: held-out rollouts.")
CURVES = [  # metric, title, what it means
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
    ("length_mean", "Length of answers", "Sampled from the student on held-out prompts, tokens."),
    ("stop_rate", "Stop rate", "Of those answers; the others ran into the length cap."),
    ("grad_norm", "Gradient norm", "Before clipping."),
]


@dataclass(frozen=True)
class Curve:
    title: str
    meaning: str
    svg: str


def collect_run(run: Run) -> dict[str, Any]:
    """Everything the template needs about one run."""
    status = run_status(run)
    colours = {model: index for index, model in enumerate(run.models())}
    return {
        "name": run.recipe.name,
        "root": str(run.root),
        "status": status,
        "total_seconds": sum(job["device_seconds"] for job in status["jobs"]),
        "colours": colours,
        "accuracy": _accuracy(status, colours),
        "benchmarks": _benchmarks(run),
        "overlap": status["overlap"],
        "divergence": _divergence(status, colours),
        "sft": _curves({SFT: _metrics(run, SFT)}, {SFT: 2}, [LOSS]),
        "curves": _arm_curves(run, colours),
        "arms": _arms(run, status),
        "lengths": _lengths(run, colours),
        "completions": _completions(run),
        "tail": _tail(run),
        "lineage": _lineage(run),
    }


def compare(statuses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per benchmark, every model's score in every run; None where a run lacks it."""
    tables = [status["scores"] for status in statuses]
    models = dict.fromkeys(model for table in tables for model in table)
    names = dict.fromkeys(n for table in tables for scores in table.values() for n in scores)
    return [
        {
            "name": name,
            "rows": [
                {"model": model, "scores": [table.get(model, {}).get(name) for table in tables]}
                for model in models
            ],
        }
        for name in names
    ]


def _benchmarks(run: Run) -> list[dict[str, Any]]:
    models = [
        Evaluated(model, run.folder(f"{EVALUATE}/{model}"))
        for model in run.models()
        if run.record(f"{EVALUATE}/{model}") is not None
    ]
    if not models or not run.recipe.evaluate.benchmarks:
        return []
    return collect_benchmarks(models, open_prompts(run, PROBLEMS), against=REFERENCE)


def _accuracy(status: dict[str, Any], colours: dict[str, int]) -> dict[str, str]:
    """Benchmark -> chart of every model's accuracy."""
    names = {name for scores in status["scores"].values() for name in scores}
    return {
        name: interval_chart(
            [
                (model, s[name]["accuracy"], *s[name]["interval"], colours[model])
                for model, s in status["scores"].items()
            ],
            label=f"accuracy on {name}",
        )
        for name in sorted(names)
    }


def _divergence(status: dict[str, Any], colours: dict[str, int]) -> str:
    rows = [
        (model, found["reverse_kl"], *found["interval"], colours[model])
        for model, found in status["divergence"].items()
    ]
    return interval_chart(rows, label="reverse KL to the teacher", percent=False) if rows else ""


def _metrics(run: Run, job: str) -> list[dict[str, Any]]:
    return read_metrics(run.folder(job) / METRICS)


def _arm_curves(run: Run, colours: dict[str, int]) -> list[Curve]:
    """A loss chart per objective, since each has its own scale; then what all arms share."""
    metrics = {arm: _metrics(run, f"distill/{arm}") for arm in run.arms()}
    charts: list[Curve] = []
    for objective in dict.fromkeys(settings.objective for settings in run.arms().values()):
        own = {arm: metrics[arm] for arm, s in run.arms().items() if s.objective == objective}
        charts += _curves(own, colours, [(LOSS[0], f"{LOSS[1]}: {objective}", LOSS[2])])
    weighted = any(settings.importance != "none" for settings in run.arms().values())
    return charts + _curves(metrics, colours, CURVES if weighted else _without_weights(CURVES))


def _arms(run: Run, status: dict[str, Any]) -> list[dict[str, Any]]:
    """Per arm: when it was best on held-out answers, what it cost, what diagnosis found."""
    found = []
    for arm, settings in run.arms().items():
        metrics = _metrics(run, f"{DISTILL}/{arm}")
        heldout = {m["step"]: criterion(m) for m in metrics if m["split"] == "heldout"}
        if heldout:
            cost = {k: v for k, v in status["costs"].get(arm, {}).items() if k != "shared_by"}
            found.append(
                {
                    "name": arm,
                    "refresh_every": settings.refresh_every,
                    "best": best_step(metrics),
                    "lowest": min(heldout.values()),
                    "steps": max(heldout),
                    "last": heldout[max(heldout)],
                    "cost": cost,
                    "total": sum(cost.values()),
                    "warnings": status["warnings"].get(arm, []),
                }
            )
    return found


def _without_weights(wanted: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Importance weights that are all one need no chart."""
    return [curve for curve in wanted if not curve[0].startswith("weight")]


def _curves(
    metrics: dict[str, list[dict[str, Any]]],
    colours: dict[str, int],
    wanted: Sequence[tuple[str, str, str]],
) -> list[Curve]:
    """One chart per metric with a curve per arm, dashed where held-out."""
    charts = []
    for key, title, meaning in wanted:
        lines = [
            Line(f"{arm}, {split}", _points(rows, split, key), colours[arm], split == "heldout")
            for arm, rows in metrics.items()
            for split in ("train", "heldout")
        ]
        if any(line.points for line in lines):
            charts.append(Curve(title, meaning, line_chart(lines, label=title)))
    return charts


def _points(rows: list[dict[str, Any]], split: str, key: str) -> list[tuple[float, float]]:
    return [(r["step"], r[key]) for r in rows if r["split"] == split and key in r]


def _lengths(run: Run, colours: dict[str, int]) -> list[dict[str, Any]]:
    """Completion lengths and stop rates of the stores and of every evaluated model."""
    places = [(TEACH, run.folder(TEACH), 0), (ROLLOUT, run.folder(ROLLOUT), 2)]
    for benchmark in run.recipe.evaluate.benchmarks:
        for model, colour in colours.items():
            folder = run.folder(f"{EVALUATE}/{model}") / "samples" / benchmark.name
            places.append((f"{model} on {benchmark.name}", folder, colour))
    found = []
    for title, folder, colour in places:
        if (folder / "SEALED.json").exists():
            store = open_store(folder)
            lengths = store.lengths("completion_ids")
            stopped = store.values("finish_reason").count("stop") / len(store)
            chart = histogram(lengths, label=f"lengths of {title}", colour=colour)
            mean = sum(lengths) / len(lengths)
            found.append({"title": title, "svg": chart, "mean": mean, "stopped": stopped})
    return found


def _completions(run: Run) -> list[dict[str, Any]]:
    """Scored rollouts from the worst mean advantage to the best, evenly spaced in rank."""
    if run.record(SCORE) is None:
        return []
    rollouts, scores = open_artifact(run, ROLLOUT), open_artifact(run, SCORE)
    means = [(s["logp_teacher"] - s["logp_reference"]).mean() for s in scores]
    ranked = sorted(range(len(means)), key=lambda i: means[i])
    count = min(NUM_COMPLETIONS, len(ranked))
    picked = [ranked[round(i * (len(ranked) - 1) / max(1, count - 1))] for i in range(count)]
    tokenizer = load_tokenizer(tokenizer_folder(run))
    shown = [describe(rollouts[i], scores[i], tokenizer) for i in picked]
    return [
        {**row, "row": i, "mean": float(means[i])} for i, row in zip(picked, shown, strict=True)
    ]


def _tail(run: Run) -> dict[str, float] | None:
    """How much of the sampled loss rests on tokens far below the teacher's taste."""
    record = run.record(SCORE)
    if record is None:
        return None
    counts = record.counts
    return {
        "tokens": counts["tokens_below_minus_10"],
        "loss": counts["their_share_of_sampled_loss"],
    }


def _lineage(run: Run) -> list[dict[str, Any]]:
    records = [(job, run.record(job)) for job in run.jobs()]
    return [{"job": job, "record": record} for job, record in records if record is not None]
