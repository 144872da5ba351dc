"""What must hold before a job may run: nothing drifted, one teacher. No model is loaded."""

from dataclasses import replace
from pathlib import Path

from leyden.errors import ConsistencyError
from leyden.lineage import check_drift, check_one_teacher, read_intent
from leyden.run import PROMPTS, SCORE, TEACH, Run

RENDERING = ("tokenizer", "template", "stop tokens")  # parts of a model that decide prompt ids


def check_run(run: Run, jobs: list[str]) -> None:
    """Refuse missing models of ``jobs``, drift of any begun job, and a second teacher."""
    run.identities.clear()
    for job in jobs:
        if run.record(job) is None:
            for role in run.outside_models(job):
                run.identity(role)
    for job in run.jobs():
        if all(run.record(parent) is not None for parent in run.parents(job)):
            check_job(run, job)
    if run.record(SCORE) is None:
        teacher_consistency(run)


def check_job(run: Run, job: str) -> None:
    """Refuse when ``job`` was begun from something else than the recipe and its parents are now."""
    begun = read_intent(run.folder(job))
    finished = run.record(job) is not None
    if begun is None or not (finished or holds_work(run.folder(job))):
        return
    # What a finished job used may be gone: nothing more will be made of it.
    wanted = run.intent(job, finished=begun if finished else None)
    if job in (PROMPTS, TEACH) and finished and run.recipe.models.sft_teacher is None:
        # A finished answer keeps its author; whether the author may score is the one-teacher rule.
        wanted = replace(wanted, models=begun.models)
    check_drift(run.folder(job), wanted, redo=", ".join(run.descendants(job)))


def holds_work(folder: Path) -> bool:
    """Whether an unfinished job has committed anything that a changed recipe would waste."""
    return any(
        True for p in ("**/commits/*.json", "checkpoints/*/state.json") for _ in folder.glob(p)
    )


def check_rendering(run: Run) -> None:
    """The teacher that answers must read prompts as the one that rendered them did."""
    record = run.record(PROMPTS)
    assert record is not None, "teach needs the prompts"
    rendered, now = record.intent.models["sft_teacher"], run.identity("sft_teacher")
    differ = [part for part in rendered.differences(now) if part in RENDERING]
    if differ:
        raise ConsistencyError(
            f"{run.folder(PROMPTS)}: rendered with a teacher whose "
            f"{', '.join(differ)} changed since",
            hint="undo the change, or `leyden run RECIPE --redo prompts`",
        )


def teacher_consistency(run: Run) -> str:
    """The one-teacher rule as it stands now; empty while no SFT data exists."""
    if run.recipe.models.reference:
        wrote, declared = run.identity("sft_teacher"), True
    else:
        answers = run.record(TEACH)
        if answers is None:
            return ""
        wrote, declared = answers.intent.models["sft_teacher"], False
    return check_one_teacher(
        wrote,
        run.identity("teacher"),
        allowed=run.recipe.score.allow_inconsistent_teacher,
        declared=declared,
    )


def check_unchanged(run: Run, job: str) -> None:
    """The outside models of ``job`` must be now what its intent said before it began."""
    run.identities.clear()
    begun = read_intent(run.folder(job))
    assert begun is not None, "a job writes its intent first"
    for role, identity in begun.models.items():
        differ = identity.differences(run.identity(role))
        if differ:
            raise ConsistencyError(
                f"{run.place(role)}: its {', '.join(differ)} changed while {job} was running",
                hint=f"restore it and `leyden run RECIPE --redo {job}`",
            )
