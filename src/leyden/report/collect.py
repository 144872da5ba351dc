"""Gather the content of the page from records, metrics and stores; no model is loaded."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from leyden.models.vocabulary import load_tokenizer
from leyden.monitor.diagnosis import best_step
from leyden.monitor.show import ShownRow, ShownToken, describe
from leyden.monitor.status import RunStatus, run_status
from leyden.report.benchmarks import Evaluated, Section, collect_benchmarks
from leyden.report.charts import histogram, interval_chart
from leyden.report.curves import arm_curves, metrics_of, sft_curves
from leyden.report.parts import (
    ArmRow,
    ComparedModel,
    ComparedRuns,
    Finished,
    Lengths,
    RunPage,
    ShownCompletion,
    Tail,
)
from leyden.report.what_ran import used_engines, what_ran
from leyden.run.artifacts import open_artifact, open_prompts, tokenizer_folder
from leyden.run.graph import Graph
from leyden.run.layout import SAMPLES
from leyden.run.run import REFERENCE
from leyden.run.stage import PROBLEMS, ROLLOUT, SCORE, TEACH, Artifact, distill, evaluate
from leyden.run.table import STAGES
from leyden.store.reader import is_sealed, open_store
from leyden.telemetry.metrics import criterion

NUM_COMPLETIONS = 12
TOKEN_BUDGET = 6000  # tokens with their numbers on a page, about 250 bytes each


def collect_run(graph: Graph) -> RunPage:
    """Everything that the page shows of one run."""
    status, run = run_status(graph), graph.run
    colours = {model: index for index, model in enumerate(run.models())}
    return RunPage(
        name=run.recipe.name,
        root=str(run.root),
        what=what_ran(graph),
        status=status,
        stages=[s for s in status.stages if STAGES[s.name].artifact != Artifact.PROMPTS],
        total_seconds=sum(job.device_seconds for job in status.jobs),
        colours=colours,
        accuracy=_accuracy(status, colours),
        benchmarks=_benchmarks(graph, status),
        divergence=_divergence(status, colours),
        sft=sft_curves(graph),
        curves=arm_curves(graph, colours),
        arms=_arms(graph, status),
        lengths=_lengths(graph, colours),
        completions=_completions(graph),
        tail=_tail(graph),
        lineage=_lineage(graph),
    )


def compare(statuses: Sequence[RunStatus]) -> list[ComparedRuns]:
    """Every model's result in every run, benchmark by benchmark."""
    tables = [status.results for status in statuses]
    models = dict.fromkeys(model for table in tables for model in table)
    names = dict.fromkeys(n for table in tables for results in table.values() for n in results)
    return [
        ComparedRuns(
            name,
            [
                ComparedModel(model, [table.get(model, {}).get(name) for table in tables])
                for model in models
            ],
        )
        for name in names
    ]


def _benchmarks(graph: Graph, status: RunStatus) -> list[Section]:
    run = graph.run
    models = [Evaluated(model, graph.folder(evaluate(model))) for model in status.results]
    if not models or not run.recipe.evaluate.benchmarks:
        return []
    problems = open_prompts(graph, PROBLEMS)
    return collect_benchmarks(models, problems, against=REFERENCE, arms=run.arms())


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


def _arms(graph: Graph, status: RunStatus) -> list[ArmRow]:
    rows = []
    for arm, settings in graph.run.arms().items():
        metrics = metrics_of(graph, distill(arm))
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


def _lengths(graph: Graph, colours: dict[str, int]) -> list[Lengths]:
    """Completion lengths and stop rates of the stores and of every evaluated model."""
    places = [(str(TEACH), graph.folder(TEACH), 0), (str(ROLLOUT), graph.folder(ROLLOUT), 2)]
    for benchmark in graph.run.recipe.evaluate.benchmarks:
        for model, colour in colours.items():
            folder = graph.folder(evaluate(model)) / SAMPLES / benchmark.name
            places.append((f"{model} on {benchmark.name}", folder, colour))
    return [_length(*place) for place in places if is_sealed(place[1])]


def _length(title: str, folder: Path, colour: int) -> Lengths:
    store = open_store(folder)
    lengths = store.lengths("completion_ids")
    return Lengths(
        title,
        histogram(lengths, label=f"lengths of {title}", colour=colour),
        sum(lengths) / len(lengths),
        store.values("finish_reason").count("stop") / len(store),
    )


def _completions(graph: Graph) -> list[ShownCompletion]:
    """Scored rollouts from the worst mean advantage to the best, evenly spaced in rank."""
    if not graph.finished(SCORE):
        return []
    rollouts, scores = open_artifact(graph, ROLLOUT), open_artifact(graph, SCORE)
    means = [float((s["logp_teacher"] - s["logp_reference"]).mean()) for s in scores]
    ranked = sorted(range(len(means)), key=lambda i: means[i])
    count = min(NUM_COMPLETIONS, len(ranked))
    picked = [ranked[round(i * (len(ranked) - 1) / max(1, count - 1))] for i in range(count)]
    tokenizer = load_tokenizer(tokenizer_folder(graph))
    most = max(2, TOKEN_BUDGET // max(1, count))
    return [_shown(i, means[i], describe(rollouts[i], scores[i], tokenizer), most) for i in picked]


def _shown(row: int, mean: float, shown: ShownRow, most: int) -> ShownCompletion:
    """With at most ``most`` tokens: of a longer one its beginning and its end."""
    over = len(shown.tokens) - most
    if over <= 0:
        return ShownCompletion(row, mean, shown)
    gap = ShownToken(f" [... {over:,} tokens ...] ", -1, 0.0)
    half = most // 2
    tokens = [*shown.tokens[:half], gap, *shown.tokens[half + over :]]
    return ShownCompletion(row, mean, replace(shown, tokens=tokens), left_out=over)


def _tail(graph: Graph) -> Tail | None:
    """The share of the sampled loss that rests on tokens which the teacher finds unlikely."""
    record = graph.record(SCORE)
    if record is None:
        return None
    counts = record.counts
    noise = [one.noise["company"] for one in used_engines(graph) if one.job == str(SCORE)]
    return Tail(
        counts["tokens_below_minus_10"],
        counts["their_share_of_sampled_loss"],
        counts["mean_advantage"],
        max(noise, default=None),
    )


def _lineage(graph: Graph) -> list[Finished]:
    records = {job: graph.record(job) for job in graph.jobs}
    return [Finished(str(job), r) for job, r in records.items() if r is not None]
