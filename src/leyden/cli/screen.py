"""What people see: progress and notices on stderr, data on stdout."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from leyden.evals.results import SCORES
from leyden.run.run import Run
from leyden.telemetry.progress import Advance


class RateColumn(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {task.fields['unit']}/s" if speed else "", style="cyan")


@contextmanager
def progress(name: str, total: int, unit: str) -> Iterator[Advance]:
    """A bar on stderr with rate and time left; in a log file a line every tenth."""
    columns = [
        TextColumn("  {task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    console = Console(stderr=True)
    if not console.is_terminal:
        yield tenths(name, total, unit)
        return
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(name, total=total, unit=unit, note="")
        yield lambda amount, note="": bars.update(task, advance=amount, note=note)


def tenths(name: str, total: int, unit: str) -> Advance:
    """Prints a line whenever another tenth is done, not faster than every ten seconds."""
    done, said, began = 0, time.monotonic(), time.monotonic()

    def advance(amount: int, note: str = "") -> None:
        nonlocal done, said
        before, done, now = done, done + amount, time.monotonic()
        if 10 * done // total > 10 * before // total and now - said >= 10:
            said = now
            line = f"{name:22} {done}/{total} {unit}, {now - began:.0f} s"
            line += f", {note}" if note else ""
            print(line, file=sys.stderr, flush=True)

    return advance


def announce(job: str, state: str) -> None:
    marks = {"done": "[green]done[/]", "done before": "[dim]done before[/]", "running": "..."}
    Console(stderr=True, highlight=False).print(f"{job:22} {marks.get(state, state)}")


def print_line(sentence: str) -> None:
    print(sentence)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def print_plan(plan: list[tuple[str, str]]) -> None:
    for job, what in plan:
        print(f"{job:22} {what}")


def print_status(status: dict[str, Any]) -> None:
    """Stages, then models."""
    console = Console(highlight=False)
    console.print(_stages(status))
    if status["costs"]:
        console.print(_costs(status["costs"]))
    if status["scores"]:
        console.print(_scores(status))
    console.print(f"one teacher: {status['teacher_consistency']}")
    for name, splits in status["overlap"].items():
        counts = ", ".join(f"{count} {split} prompts" for split, count in splits.items() if count)
        console.print(f"warning: the benchmark {name} is trained on: {counts} hold its problems")
    for arm, findings in status["warnings"].items():
        for found in findings:
            where = f"warning: {arm}, step {found['step']}"
            console.print(f"{where}: {found['sentence']}; {found['advice']}", markup=False)


def _stages(status: dict[str, Any]) -> Table:
    table = Table(title=f"run {status['name']}", title_justify="left")
    table.add_column("stage")
    table.add_column("state")
    for name in ("rows", "tokens", "device-seconds"):
        table.add_column(name, justify="right")
    for job in status["jobs"]:
        numbers = (f"{job['rows']:,}", f"{job['tokens']:,}", f"{job['device_seconds']:.1f}")
        table.add_row(job["name"], job["state"], *numbers)
    return table


def _costs(costs: dict[str, dict[str, float]]) -> Table:
    phases = [name for name in next(iter(costs.values())) if name != "shared_by"]
    table = Table(title="device-seconds of each arm", title_justify="left")
    table.add_column("arm", min_width=max(map(len, costs)))
    for name in (*phases, "total", "shared by"):
        table.add_column(name, justify="right")
    for arm, cost in costs.items():
        seconds = [cost[name] for name in phases]
        cells = (f"{value:.1f}" for value in (*seconds, sum(seconds)))
        table.add_row(arm, *cells, f"{cost['shared_by']:.0f}")
    return table


def _scores(status: dict[str, Any]) -> Table:
    benchmarks = list(next(iter(status["scores"].values())))
    table = Table(title="accuracy, 95% interval", title_justify="left")
    table.add_column("model")
    for name in benchmarks:
        table.add_column(name, justify="right")
    if status["divergence"]:
        table.add_column("reverse KL to teacher, nats/token", justify="right")
    for model, scores in status["scores"].items():
        cells = [_accuracy(scores[name]) for name in benchmarks]
        if status["divergence"]:
            cells.append(_divergence(status["divergence"].get(model)))
        table.add_row(model, *cells)
    return table


def _accuracy(score: dict[str, Any]) -> str:
    low, high = score["interval"]
    return f"{100 * score['accuracy']:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"


def print_scores(scores: dict[str, Any]) -> None:
    """One model's benchmarks, a row each."""
    table = Table(title="95% intervals over problems", title_justify="left")
    table.add_column("benchmark")
    for name in ("problems", "k", "avg@k", "pass@k", "maj@k", " / ".join(NOT_RIGHT), "tokens"):
        table.add_column(name, justify="right")
    for name, score in scores["benchmarks"].items():
        k = score["samples_per_problem"]
        table.add_row(
            name,
            f"{score['problems']:,}",
            str(k),
            _accuracy(score),
            _share(score["pass_at"][str(k)]),
            _share(score["majority"]) if score["majority"] else "-",
            " / ".join(f"{score[outcome]:,}" for outcome in NOT_RIGHT),
            f"{score['mean_tokens']:.0f}",
        )
    Console(highlight=False).print(table)


NOT_RIGHT = ("wrong", "unparsed", "truncated")


def _share(found: list[float]) -> str:
    return f"{100 * found[0]:.1f}%"


def print_comparison(found: dict[str, dict[str, Any]], first: str, second: str) -> None:
    """Differences in points, first minus second."""
    table = Table(title=f"{first} minus {second}, points, 95%", title_justify="left")
    table.add_column("benchmark")
    for name in ("problems", "first", "second", "difference"):
        table.add_column(name, justify="right")
    for name, pair in found.items():
        value, low, high = (100 * x for x in pair["difference"])
        table.add_row(
            name,
            f"{pair['problems']:,}",
            f"{100 * pair['first']:.1f}%",
            f"{100 * pair['second']:.1f}%",
            f"{value:+.1f} [{low:+.1f}, {high:+.1f}]",
        )
    Console(highlight=False).print(table)


def print_overlaps(found: list[dict[str, Any]]) -> None:
    """A line per benchmark and source, then the first overlaps of each."""
    for one in found:
        counts = f"{one['exact']} exact, {one['grams']} with 13 words in a row"
        print(f"{one['benchmark']} in {one['source']}: {counts}, of {one['prompts']:,} prompts")
        for overlap in one["overlaps"][:MOST_SHOWN]:
            shared = overlap["shared"][:80]
            print(f"  {overlap['prompt']} holds {overlap['problem']} ({overlap['kind']}): {shared}")


MOST_SHOWN = 5


def _divergence(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    low, high = found["interval"]
    return f"{found['reverse_kl']:.3f} [{low:.3f}, {high:.3f}]"


def print_row(row: dict[str, Any]) -> None:
    """One completion: its prompt, its text, a table of tokens."""
    console = Console(highlight=False, markup=False)
    console.print(f"{row['prompt_id']}  sample {row['sample']}  {row['finish_reason']}")
    console.print(f"prompt: {row['prompt']!r}\ncompletion: {row['completion']!r}")
    columns = [name for name in row["tokens"][0] if name != "text"]
    table = Table(*columns)
    for token in row["tokens"]:
        cells = (token[name] for name in columns)
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in cells))
    console.print(table)


def write_report(roots: list[Path], out: Path | None) -> None:
    from leyden.report.page import write_evaluation_report
    from leyden.report.page import write_report as write

    if all((root / SCORES).is_file() for root in roots):
        print(f"report: {write_evaluation_report(roots, out)}")
    else:
        print(f"report: {write([Run.open(root) for root in roots], out)}")
