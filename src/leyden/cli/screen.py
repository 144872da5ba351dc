"""The screen: progress and notices on stderr, data on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

from leyden.cli import tables
from leyden.cli.visible import visible
from leyden.telemetry.progress import Advance

if TYPE_CHECKING:  # names of types alone; `leyden --help` loads none of these
    from leyden.evals.overlap import SourceOverlap
    from leyden.evals.results import BenchmarkResult, Comparison, Results
    from leyden.monitor.show import ShownRow
    from leyden.monitor.status import RunStatus
    from leyden.pipeline.plan import Plan
    from leyden.run.stage import Job


class Screen(Console):
    """A console that leaves a broken pipe to the entry point, where rich would end the program."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


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
    console = Screen(stderr=True)
    if not console.is_terminal:
        yield tenths(name, total, unit)
        return
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(name, total=total, unit=unit, note="")
        yield lambda amount, note="": bars.update(task, advance=amount, note=note)


def tenths(name: str, total: int, unit: str) -> Advance:
    """Prints a line whenever another tenth is done, not faster than every ten seconds."""
    done, printed, began = 0, time.monotonic(), time.monotonic()

    def advance(amount: int, note: str = "") -> None:
        nonlocal done, printed
        before, done, now = done, done + amount, time.monotonic()
        if 10 * done // total > 10 * before // total and now - printed >= 10:
            printed = now
            line = f"{name:22} {done}/{total} {unit}, {now - began:.0f} s"
            line += f", {note}" if note else ""
            print(line, file=sys.stderr, flush=True)

    return advance


def announce(job: Job, state: str) -> None:
    """Tell what happens to a job, a line each."""
    marks = {"done": "[green]done[/]", "done before": "[dim]done before[/]", "running": "..."}
    Screen(stderr=True, highlight=False).print(f"{job!s:22} {marks.get(state, state)}")


def print_line(sentence: str) -> None:
    """Print a sentence to standard output."""
    print(visible(sentence))


def print_error(sentence: str, hint: str) -> None:
    """Print an error and what to do about it to standard error."""
    print(f"error: {visible(sentence)}\nhint: {visible(hint)}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Print a JSON value to standard output."""
    print(json.dumps(value, indent=1))


def print_plan(plan: Plan) -> None:
    """Print every job with what a run would do with it, then the models and prompts."""
    for job, what in plan.jobs:
        forecast = plan.forecasts.get(job)
        print(f"{job!s:22} {what}" + (f": {forecast}" if forecast else ""))
    for sentence in plan.sentences:
        print_line(sentence)


def print_status(status: RunStatus) -> None:
    """Jobs, costs, results, then warnings."""
    console = Screen(highlight=False)
    console.print(tables.jobs_table(status))
    if status.live is not None:
        print_line(status.live.sentence)
    if status.costs:
        console.print(tables.costs_table(status.costs))
    for sentence in status.crowded:
        print_line(f"caution: {sentence}")
    if any(status.results.values()) or status.divergence:
        console.print(tables.results_table(status))
    elif status.results:
        console.print("no accuracies: the recipe names no benchmarks")
    for sentence in status.changed.values():
        print_line(f"warning: {sentence}")
    for model, benchmarks in status.results.items():
        for sentence in notes(model, {name: one.result for name, one in benchmarks.items()}):
            print_line(sentence)
    print_line(f"one teacher: {status.teacher_consistency}")
    for name, splits in status.overlap.items():
        counts = ", ".join(f"{count} {split} prompts" for split, count in splits.items() if count)
        told = f"warning: the benchmark {name} is trained on: {counts} hold its problems"
        print_line(told)
    for arm, findings in status.warnings.items():
        for finding in findings:
            where = f"warning: {arm}, step {finding.step}"
            print_line(f"{where}: {finding.sentence}; {finding.advice}")


NOT_RIGHT = ("wrong", "unparsed", "truncated")


def notes(model: str, results: Mapping[str, BenchmarkResult]) -> list[str]:
    """A sentence for each benchmark with samples that the machine kept from being judged, and for
    each with programs that were judged where they could have forged it."""
    sentences = []
    for name, result in results.items():
        if result.not_graded:
            sentences.append(
                f"warning: {model} on {name}: {result.not_graded:,} of {result.samples:,} samples "
                "were not graded, for want of memory; they count as not right. The same command "
                "grades them again"
            )
        if result.forgeable:
            sentences.append(
                f"note: {model} on {name}: {result.forgeable:,} of {result.right:,} right programs "
                "were tested in their own process, as their tests need its objects; such a test "
                "can be forged"
            )
    return sentences


def print_results(results: Results) -> None:
    """One model's benchmarks, a row each."""
    table = Table(title="95% intervals over problems", title_justify="left")
    table.add_column("benchmark")
    for name in (
        "problems",
        "k",
        "avg@k",
        "sampling",
        "pass@k",
        "maj@k",
        " / ".join(NOT_RIGHT),
        "tokens",
    ):
        table.add_column(name, justify="right")
    for name, result in results.benchmarks.items():
        k = str(result.samples_per_problem)
        table.add_row(
            name,
            f"{result.problems:,}",
            k,
            tables.accuracy(result),
            "-" if result.sampling_error is None else f"\u00b1{196 * result.sampling_error:.1f}",
            tables.share(result.pass_at[k]),
            tables.share(result.majority) if result.majority else "-",
            " / ".join(f"{count:,}" for count in (result.wrong, result.unparsed, result.truncated)),
            f"{result.mean_tokens:.0f}",
        )
    console = Screen(highlight=False)
    console.print(table)
    for name, result in results.benchmarks.items():
        for field in result.groups:
            console.print(tables.groups_table(name, field, result))
    for sentence in notes("this model", results.benchmarks):
        print_line(sentence)


def print_comparison(comparisons: Mapping[str, Comparison], first: str, second: str) -> None:
    """Differences in points, first minus second."""
    table = Table(title=f"{first} minus {second}, points, 95%", title_justify="left")
    table.add_column("benchmark")
    for name in ("problems", "first", "second", "difference"):
        table.add_column(name, justify="right")
    for name, pair in comparisons.items():
        value, low, high = (100 * x for x in pair.difference)
        table.add_row(
            name,
            f"{pair.problems:,}",
            f"{100 * pair.first:.1f}%",
            f"{100 * pair.second:.1f}%",
            f"{value:+.1f} [{low:+.1f}, {high:+.1f}]",
        )
    Screen(highlight=False).print(table)


MOST_SHOWN = 5


def print_overlaps(sources: Sequence[SourceOverlap]) -> None:
    """A line per benchmark and source, then the first overlaps of each."""
    for source in sources:
        counts = f"{source.exact} exact, {source.grams} with 13 words in a row"
        where = f"{source.benchmark} in {source.source}"
        print_line(f"{where}: {counts}, of {source.prompts:,} prompts")
        for overlap in source.overlaps[:MOST_SHOWN]:
            shared = overlap.shared[:80]
            print_line(f"  {overlap.prompt} holds {overlap.problem} ({overlap.kind}): {shared}")


def print_row(row: ShownRow) -> None:
    """One completion: its prompt, its text, a table of tokens."""
    console = Screen(highlight=False, markup=False)
    console.print(visible(f"{row.prompt_id}  sample {row.sample}  {row.finish_reason}"))
    console.print(visible(f"prompt: {row.prompt!r}\ncompletion: {row.completion!r}"))
    numbers = ("sampler", "teacher", "reference", "advantage", "teacher_entropy")
    shown = [name for name in numbers if getattr(row.tokens[0], name) is not None]
    table = Table("token", "id", *(name.replace("_", " ") for name in shown))
    for token in row.tokens:
        cells = (f"{getattr(token, name):.3f}" for name in shown)
        table.add_row(visible(token.token), str(token.id), *cells)
    console.print(table)


def write_report(folders: list[Path], out: Path | None) -> None:
    """Write the page about runs, or about evaluations, and print where it is."""
    from leyden.report.page import write_report_of

    print(f"report: {write_report_of(folders, out)}")
