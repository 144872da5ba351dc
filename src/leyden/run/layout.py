"""Every file and folder name of a run; stores and prompt sets have formats of their own.

    RUN/
    ├── recipe.toml          the resolved recipe
    ├── .lock                held by the process that works on the run
    ├── .lock-ranks          shared by the ranks while several train
    ├── .lock-job-JOB        held by the process that leads a job others may help with
    ├── .heartbeat.json      how far the process that works on it is; gone when all is done
    ├── prompts/             a prompt set: every prompt as token ids
    ├── problems/            a prompt set: every benchmark problem as token ids
    ├── teach/               a store of the teacher's completions
    ├── sft/                 model/, metrics.jsonl, checkpoints/ while it trains
    ├── rollout/             a store of the student's completions
    ├── score/               a store of scores, row for row with rollout/
    ├── distill/ARM/         like sft/, and refresh/STEP/ while it trains
    ├── evaluate/MODEL/      results.json, grades/NAME.jsonl, samples/NAME/ and divergence/ (stores)
    ├── superseded/001/      jobs that --redo moved aside
    └── report.html

Each job's folder also holds ``intent.json`` and ``record.json`` (``provenance/records.py``).
"""

from pathlib import Path

RECIPE, REPORT, SUPERSEDED = "recipe.toml", "report.html", "superseded"
LOCK, RANKS_LOCK, HEARTBEAT = ".lock", ".lock-ranks", ".heartbeat.json"
JOB_LOCK = ".lock-job-"  # and the job
MODEL, METRICS, CHECKPOINTS, REFRESH = "model", "metrics.jsonl", "checkpoints", "refresh"
RESULTS, SAMPLES, GRADES, DIVERGENCE = "results.json", "samples", "grades", "divergence"
OLD_RESULTS = "scores.json"  # before results were told apart from a teacher's scores
EVALUATIONS = Path("evaluations")  # where `leyden evaluate MODEL` keeps its folders
RUNS = Path("runs")  # where `leyden run RECIPE` keeps its folders


def results_file(folder: Path) -> Path:
    """The results of an evaluation, under the name that the version which wrote them used."""
    new, old = folder / RESULTS, folder / OLD_RESULTS
    return old if old.is_file() and not new.is_file() else new


def grades_file(folder: Path, benchmark: str) -> Path:
    """One line per graded sample of ``benchmark`` in the evaluation ``folder``."""
    return folder / GRADES / f"{benchmark}.jsonl"


def refresh_folder(folder: Path, step: int) -> Path:
    """The two stores that the steps from ``step`` on train on."""
    return folder / REFRESH / f"{step:06d}"
