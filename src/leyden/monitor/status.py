"""What a run holds, read from records, commits and metrics alone; no model, no torch."""

from dataclasses import dataclass
from typing import Any

from leyden.evals.results import difference, read_scores
from leyden.files import whole_files
from leyden.monitor.costs import arm_costs
from leyden.monitor.diagnosis import diagnose_arm
from leyden.provenance.records import read_intent
from leyden.run.run import DISTILL, EVALUATE, PROBLEMS, PROMPTS, ROLLOUT, SCORE, SFT, TEACH, Run
from leyden.store.unit import COMMITS, read_commit
from leyden.store.writer import TIMINGS, device_seconds

STAGES = (PROMPTS, TEACH, SFT, ROLLOUT, SCORE, DISTILL, EVALUATE)
REFERENCE = "reference"
PER_PROBLEM = ("outcomes", "questions")  # of scores: too long for a table
DONE, BROKEN, WAITING = "done", "unfinished", "waiting"


@dataclass(frozen=True)
class JobStatus:
    """``rows`` and ``tokens`` of what is committed so far."""

    name: str
    state: str
    rows: int
    tokens: int
    device_seconds: float


def run_status(run: Run) -> dict[str, Any]:
    """Everything ``leyden status --json`` prints."""
    jobs = [job_status(run, job) for job in run.jobs()]
    return {
        "name": run.recipe.name,
        "stages": [vars(_stage(name, jobs)) for name in STAGES if _of(name, jobs)],
        "jobs": [vars(job) for job in jobs],
        "scores": scores(run),
        "divergence": divergences(run),
        "overlap": overlaps(run),
        "costs": arm_costs(run),
        "warnings": warnings(run),
        "teacher_consistency": consistency(run),
    }


def job_status(run: Run, job: str) -> JobStatus:
    record = run.record(job)
    if record is not None:
        counts = record.counts
        return JobStatus(
            job, DONE, counts.get("rows", 0), counts.get("tokens", 0), record.device_seconds
        )
    folder = run.folder(job)
    if read_intent(folder) is None:
        return JobStatus(job, WAITING, 0, 0, 0.0)
    if job.startswith(DISTILL):  # what a refresh holds is not what the arm will
        return JobStatus(job, BROKEN, 0, 0, 0.0)
    paths = whole_files(folder, f"**/{COMMITS}/*.json")
    commits = [read_commit(path) for path in paths]
    seconds = sum(device_seconds(timings) for timings in folder.glob(f"**/{TIMINGS}"))
    rows, tokens = (sum(c[key] for c in commits) for key in ("rows", "tokens"))
    return JobStatus(job, BROKEN, rows, tokens, seconds)


def _stage(name: str, jobs: list[JobStatus]) -> JobStatus:
    """One line for all jobs of a stage."""
    mine = _of(name, jobs)
    states = {job.state for job in mine}
    state = states.pop() if len(states) == 1 else BROKEN
    return JobStatus(
        name,
        state,
        sum(job.rows for job in mine),
        sum(job.tokens for job in mine),
        sum(job.device_seconds for job in mine),
    )


def _of(stage: str, jobs: list[JobStatus]) -> list[JobStatus]:
    return [job for job in jobs if job.name.partition("/")[0] == stage]


def scores(run: Run) -> dict[str, dict[str, Any]]:
    """Model -> benchmark -> accuracy, interval, pass_at, counts of outcomes, and ``difference``:
    to the reference policy, paired over problems. Without the outcome of every sample."""
    found = {model: s["benchmarks"] for model, s in _evaluations(run).items()}
    return {model: _summaries(model, own, found.get(REFERENCE)) for model, own in found.items()}


def _summaries(model: str, own: dict[str, Any], base: dict[str, Any] | None) -> dict[str, Any]:
    summaries = {}
    for name, score in own.items():
        kept = {key: value for key, value in score.items() if key not in PER_PROBLEM}
        if base is not None and model != REFERENCE:
            kept["difference"] = difference(score, base[name])
        summaries[name] = kept
    return summaries


def overlaps(run: Run) -> dict[str, dict[str, int]]:
    """Benchmark -> split -> training prompts that hold something of its problems, where any do."""
    record = run.record(PROBLEMS)
    found = {} if record is None else record.counts.get("overlap", {})
    return {name: splits for name, splits in found.items() if any(splits.values())}


def divergences(run: Run) -> dict[str, Any]:
    """Model -> reverse KL to the teacher, where it was measured."""
    found = _evaluations(run)
    return {model: s["divergence"] for model, s in found.items() if "divergence" in s}


def _evaluations(run: Run) -> dict[str, dict[str, Any]]:
    found = {}
    for model in run.models():
        record = run.record(f"{EVALUATE}/{model}")
        if record is not None:
            found[model] = read_scores(run.folder(f"{EVALUATE}/{model}"))
    return found


def warnings(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Arm -> what diagnosis found, where it found anything."""
    found = {arm: [vars(finding) for finding in diagnose_arm(run, arm)] for arm in run.arms()}
    return {arm: findings for arm, findings in found.items() if findings}


def consistency(run: Run) -> str:
    """``verified``, ``declared`` or ``overridden`` once scored; ``unscored`` before."""
    record = run.record(SCORE)
    return record.teacher_consistency if record else "unscored"
