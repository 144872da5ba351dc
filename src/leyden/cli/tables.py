"""The tables that commands print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from leyden.cli.visible import visible

if TYPE_CHECKING:  # names of types alone; `leyden --help` loads none of these
    from leyden.evals.results import BenchmarkResult, Divergence, Estimate
    from leyden.monitor.costs import ArmCost
    from leyden.monitor.status import RunStatus


def jobs_table(status: RunStatus) -> Table:
    """A run's jobs, a row each."""
    table = Table(title=f"run {status.name}", title_justify="left")
    table.add_column("stage")
    table.add_column("state")
    for name in ("rows", "tokens", "device-seconds"):
        table.add_column(name, justify="right")
    for job in status.jobs:
        numbers = (f"{job.rows:,}", f"{job.tokens:,}", f"{job.device_seconds:.1f}")
        table.add_row(job.name, job.state, *numbers)
    return table


def costs_table(costs: Mapping[str, ArmCost]) -> Table:
    """Device-seconds of each arm by phase."""
    table = Table(title="device-seconds of each arm", title_justify="left")
    table.add_column("arm", min_width=max(map(len, costs)))
    for name in (*next(iter(costs.values())).phases, "total", "shared"):
        table.add_column(name, justify="right")
    for arm, cost in costs.items():
        cells = (f"{value:.1f}" for value in (*cost.phases.values(), cost.total))
        table.add_row(arm, *cells, str(cost.shared_by))
    return table


def results_table(status: RunStatus) -> Table:
    """Every model's accuracy on every benchmark."""
    benchmarks = list(next(iter(status.results.values())))
    table = Table(title="accuracy, 95% interval", title_justify="left")
    table.add_column("model")
    for name in benchmarks:
        table.add_column(name, justify="right")
    if status.divergence:
        table.add_column("reverse KL to teacher, nats/token", justify="right")
    for model, results in status.results.items():
        cells = [accuracy(results[name].result) for name in benchmarks]
        if status.divergence:
            cells.append(divergence(status.divergence.get(model)))
        table.add_row(model, *cells)
    return table


def accuracy(result: BenchmarkResult) -> str:
    """An accuracy with its interval."""
    low, high = result.interval
    return f"{100 * result.accuracy:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"


def groups_table(benchmark: str, field: str, result: BenchmarkResult) -> Table:
    """One model's accuracy by a field of the problems."""
    table = Table(title=f"{benchmark} by {field}", title_justify="left")
    table.add_column(field)
    for column in ("problems", "avg@k"):
        table.add_column(column, justify="right")
    for value, group in result.groups[field].items():
        table.add_row(visible(value), f"{group.problems:,}", interval(group.accuracy))
    return table


def interval(estimate: Estimate) -> str:
    """An estimate in percent with its interval."""
    value, low, high = (100 * x for x in estimate)
    return f"{value:.1f}% [{low:.1f}, {high:.1f}]"


def share(estimate: Estimate) -> str:
    """An estimate in percent."""
    return f"{100 * estimate.value:.1f}%"


def divergence(measured: Divergence | None) -> str:
    """Reverse KL with its interval; a dash where it was not measured."""
    if measured is None:
        return "-"
    low, high = measured.interval
    return f"{measured.reverse_kl:.3f} [{low:.3f}, {high:.3f}]"
