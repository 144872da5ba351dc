"""The state of a run, read from records, commits and metrics alone; no model, no torch."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from leyden.errors import LeydenError, StoreError
from leyden.evals.results import (
    BenchmarkResult,
    Divergence,
    Estimate,
    Results,
    difference,
    read_results,
)
from leyden.files import whole_files
from leyden.monitor.costs import ArmCost, arm_costs, crowded_arms
from leyden.monitor.diagnosis import Finding, diagnose_arm
from leyden.monitor.live import RUNNING, Live, live_state
from leyden.run.graph import Graph
from leyden.run.lineage import check_recorded
from leyden.run.run import REFERENCE
from leyden.run.stage import PROBLEMS, SCORE, Artifact, Job, evaluate
from leyden.run.table import STAGES
from leyden.store.unit import COMMITS, read_commit
from leyden.store.writer import device_seconds

DONE, BROKEN, WAITING, UNSCORED = "done", "unfinished", "waiting", "unscored"
CHANGED = "changed"  # done, but not from what recipe and parents are now
PER_PROBLEM = ("outcomes", "questions")  # of a result: too long for a table


@dataclass(frozen=True)
class JobStatus:
    """A job, or all jobs of a stage. ``rows`` and ``tokens`` are of what is committed so far."""

    name: str
    state: str
    rows: int = 0
    tokens: int = 0
    device_seconds: float = 0.0


@dataclass(frozen=True)
class ModelResult:
    """A model on a benchmark. ``difference`` is to the reference policy, paired over problems.

    Where several arms are compared with it, the intervals of all ``corrected`` differences hold
    together in 95% of cases.
    """

    result: BenchmarkResult
    difference: Estimate | None = None
    corrected: Estimate | None = None

    def as_json(self) -> dict[str, Any]:
        """The numbers, without the outcome of every problem."""
        values = {k: v for k, v in asdict(self.result).items() if k not in PER_PROBLEM}
        compared = {"difference": self.difference, "corrected": self.corrected}
        return values | {name: one for name, one in compared.items() if one is not None}


@dataclass(frozen=True)
class RunStatus:
    """Everything that ``leyden status`` shows."""

    name: str
    stages: list[JobStatus]
    jobs: list[JobStatus]
    results: dict[str, dict[str, ModelResult]]
    """Model -> benchmark -> result."""
    divergence: dict[str, Divergence]
    """Model -> reverse KL to the teacher, where it was measured."""
    overlap: dict[str, dict[str, int]]
    """Benchmark -> split -> training prompts that hold something of its problems, where any do."""
    costs: dict[str, ArmCost]
    warnings: dict[str, list[Finding]]
    """Arm -> the findings of diagnosis, where there are any."""
    teacher_consistency: str
    live: Live | None = None
    """The work at this moment, or how it ended too early; None where nothing is going on."""
    crowded: list[str] = field(default_factory=list)
    """A sentence for each arm whose seconds were taken while others filled the machine."""
    changed: dict[str, str] = field(default_factory=dict)
    """Job -> the sentence with which a run would refuse it. Its results are not shown."""

    def as_json(self) -> dict[str, Any]:
        results = {
            model: {name: one.as_json() for name, one in benchmarks.items()}
            for model, benchmarks in self.results.items()
        }
        return asdict(self) | {"results": results}


def run_status(graph: Graph) -> RunStatus:
    """Everything that `leyden status` shows, from records, commits and metrics alone."""
    changed = changed_jobs(graph)
    jobs = {job: job_status(graph, job) for job in graph.jobs}
    jobs |= {job: replace(jobs[job], state=CHANGED) for job in changed}
    live = live_state(graph.run.root)
    if live is not None and live.state == RUNNING:
        now = {job: one for job, one in jobs.items() if str(job) == live.pulse.job}
        jobs |= {job: replace(one, state=RUNNING) for job, one in now.items() if one.state != DONE}
    evaluations = _evaluations(graph, changed)
    return RunStatus(
        name=graph.run.recipe.name,
        stages=[
            _together(name, [jobs[job] for job in graph.of_stage(name)])
            for name in STAGES
            if graph.of_stage(name)
        ],
        jobs=list(jobs.values()),
        results=_model_results(evaluations, graph.run.arms()),
        divergence=_divergences(evaluations),
        overlap=_overlaps(graph),
        costs=arm_costs(graph),
        warnings=_warnings(graph),
        teacher_consistency=consistency(graph),
        live=live,
        crowded=crowded_arms(graph),
        changed={str(job): sentence for job, sentence in changed.items()},
    )


def changed_jobs(graph: Graph) -> dict[Job, str]:
    """Finished jobs that were not made from what recipe and parents are now, each with the
    sentence that says so; and all jobs made from them."""
    changed: dict[Job, str] = {}
    for job in graph.jobs:
        parents = graph.parents(job)
        spoilt = next((parent for parent in parents if parent in changed), None)
        if not graph.finished(job):
            continue
        if spoilt is not None:
            changed[job] = f"{job}: made from {spoilt}, which changed"
            continue
        try:
            check_recorded(graph, job)
        except LeydenError as error:
            changed[job] = str(error)
    return changed


def job_status(graph: Graph, job: Job) -> JobStatus:
    """The state of one job."""
    record, folder, name = graph.record(job), graph.folder(job), str(job)
    if record is not None:
        rows, tokens = (record.counts.get(key, 0) for key in ("rows", "tokens"))
        return JobStatus(name, DONE, rows, tokens, record.device_seconds)
    if graph.begun(job) is None:
        return JobStatus(name, WAITING)
    if graph.stage(job).artifact == Artifact.MODEL:
        return JobStatus(name, BROKEN)  # the rows of a refresh are not what the arm will hold
    commits = [read_commit(path) for path in whole_files(folder, f"**/{COMMITS}/*.json")]
    rows, tokens = (sum(c[key] for c in commits) for key in ("rows", "tokens"))
    return JobStatus(name, BROKEN, rows, tokens, device_seconds(folder))


def _together(name: str, jobs: Sequence[JobStatus]) -> JobStatus:
    """One line for all jobs of a stage."""
    states = {job.state for job in jobs}
    return JobStatus(
        name,
        states.pop() if len(states) == 1 else BROKEN,
        sum(job.rows for job in jobs),
        sum(job.tokens for job in jobs),
        sum(job.device_seconds for job in jobs),
    )


def model_results(graph: Graph) -> dict[str, dict[str, ModelResult]]:
    """Model -> benchmark -> result, of every finished evaluation."""
    return _model_results(_evaluations(graph, changed_jobs(graph)), graph.run.arms())


def divergences(graph: Graph) -> dict[str, Divergence]:
    """Model -> reverse KL to the teacher, where it was measured."""
    return _divergences(_evaluations(graph, changed_jobs(graph)))


def _evaluations(graph: Graph, changed: Collection[Job]) -> dict[str, Results]:
    jobs = {model: evaluate(model) for model in graph.run.models()}
    return {
        model: results_of(graph, job)
        for model, job in jobs.items()
        if graph.finished(job) and job not in changed
    }


def results_of(graph: Graph, job: Job) -> Results:
    """The results of a finished evaluation. Raises StoreError where they are of other benchmarks
    than the recipe's."""
    results, folder = read_results(graph.folder(job)), graph.folder(job)
    expected = {benchmark.name for benchmark in graph.run.recipe.evaluate.benchmarks}
    if other := sorted(set(results.benchmarks) ^ expected):
        raise StoreError(
            f"{folder}: its results and the recipe differ in the benchmark {other[0]}",
            hint=f"restore its files from a copy, or `leyden run RECIPE --redo {job}`",
        )
    return results


def _divergences(evaluations: dict[str, Results]) -> dict[str, Divergence]:
    return {model: r.divergence for model, r in evaluations.items() if r.divergence is not None}


def _model_results(
    evaluations: dict[str, Results], arms: Collection[str]
) -> dict[str, dict[str, ModelResult]]:
    base, compared = evaluations.get(REFERENCE), len([m for m in evaluations if m in arms])
    results: dict[str, dict[str, ModelResult]] = {}
    for model, measured in evaluations.items():
        many = compared if model in arms else 1
        results[model] = {
            name: _compared(result, base.benchmarks[name], many)
            if base is not None and model != REFERENCE
            else ModelResult(result)
            for name, result in measured.benchmarks.items()
        }
    return results


def _compared(result: BenchmarkResult, base: BenchmarkResult, comparisons: int) -> ModelResult:
    corrected = difference(result, base, comparisons=comparisons) if comparisons > 1 else None
    return ModelResult(result, difference(result, base), corrected)


def _overlaps(graph: Graph) -> dict[str, dict[str, int]]:
    record = graph.record(PROBLEMS)
    counts = {} if record is None else record.counts.get("overlap", {})
    return {name: splits for name, splits in counts.items() if any(splits.values())}


def _warnings(graph: Graph) -> dict[str, list[Finding]]:
    findings = {arm: diagnose_arm(graph, arm) for arm in graph.run.arms()}
    return {arm: some for arm, some in findings.items() if some}


def consistency(graph: Graph) -> str:
    """``verified``, ``declared`` or ``overridden`` once scored; ``unscored`` before."""
    record = graph.record(SCORE)
    return record.teacher_consistency if record else UNSCORED
