"""What must hold before a job may run: nothing drifted, one teacher. No model is loaded."""

from dataclasses import replace
from pathlib import Path

from leyden.errors import ConsistencyError, StoreError
from leyden.provenance.one_teacher import check_one_teacher
from leyden.provenance.records import INTENT, Intent, check_drift, check_numerics, read_intent
from leyden.run.run import PROMPTS, SCORE, TEACH, Run

RENDERING = ("tokenizer", "template", "stop tokens")  # parts of a model that decide prompt ids


def check_run(run: Run, jobs: list[str]) -> None:
    """Refuse missing models of ``jobs``, drift of any begun job, and a second teacher."""
    run.identities.clear()
    check_kept(run, run.jobs())
    check_ready(run, [job for job in jobs if run.record(job) is None])


def check_kept(run: Run, jobs: list[str]) -> None:
    """What ``jobs`` have made or begun must not have drifted."""
    for job in jobs:
        if all(run.record(parent) is not None for parent in run.parents(job)):
            check_job(run, job)


def check_ready(run: Run, jobs: list[str]) -> None:
    """The models that ``jobs`` will use are there, and those that must be one teacher are."""
    for job in jobs:
        for role in run.outside_models(job):
            run.identity(role)
    if SCORE in jobs:
        teacher_consistency(run, answers_stay=TEACH not in jobs)


def check_job(run: Run, job: str) -> None:
    """Refuse when ``job`` was begun from something else than the recipe and its parents are now."""
    begun, record = read_intent(run.folder(job)), run.record(job)
    working = record is None and holds_work(run.folder(job))
    if record is None and not working:
        return
    if begun is None or (record is not None and record.intent.digest != begun.digest):
        raise StoreError(
            f"{run.folder(job) / INTENT}: missing, or not of what was made here",
            hint=f"restore it from a copy, or `leyden run RECIPE --redo {job}`",
        )
    # What a finished job used may be gone: nothing more will be made of it.
    wanted = run.intent(job, finished=None if working else begun)
    own_teacher = not (run.recipe.models.sft_teacher or run.recipe.models.reference)
    if job in (PROMPTS, TEACH) and not working and own_teacher:
        # A finished answer keeps its author; whether the author may score is the one-teacher rule.
        wanted = replace(wanted, models=begun.models)
    check_drift(run.folder(job), wanted, redo=", ".join(run.descendants(job)))
    if working:
        check_numerics(run.folder(job), begun, wanted)


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


def check_live_teacher(run: Run, intent: Intent) -> None:
    """A live teacher must be the one that scored, which obeyed the one-teacher rule."""
    scored, live = run.record(SCORE), intent.models.get("teacher")
    if scored is None or live is None or live.digest == scored.intent.models["teacher"].digest:
        return
    parts = ", ".join(scored.intent.models["teacher"].differences(live))
    raise ConsistencyError(
        f"{run.place('teacher')}: its {parts} changed since it scored the rollouts",
        hint=f"restore it, or `leyden run RECIPE --redo {SCORE}`",
    )


def teacher_consistency(run: Run, *, answers_stay: bool = True) -> str:
    """The one-teacher rule as it stands now. While there are no answers, or they will not stay,
    the teacher that is to write them counts."""
    answers = run.record(TEACH) if answers_stay else None
    return check_one_teacher(
        answers.intent.models["sft_teacher"] if answers else run.identity("sft_teacher"),
        run.identity("teacher"),
        allowed=run.recipe.score.allow_inconsistent_teacher,
        declared=run.recipe.models.reference is not None,
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
