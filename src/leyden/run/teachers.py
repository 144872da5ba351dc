"""Checks of a run's teachers: one model writes and scores, and reads prompts as rendered.

No model is loaded. The rule itself is ``provenance/one_teacher.py``.
"""

from leyden.errors import ConsistencyError
from leyden.provenance.one_teacher import check_one_teacher
from leyden.provenance.records import Intent
from leyden.run.graph import Graph
from leyden.run.run import SFT_TEACHER, TEACHER
from leyden.run.stage import PROMPTS, SCORE, TEACH

RENDERING = ("tokenizer", "template", "stop tokens")  # the parts of a model that decide prompt ids


def teacher_consistency(graph: Graph, *, keep_completions: bool = True) -> str:
    """The one-teacher rule as it stands now: ``verified``, ``declared`` or ``overridden``.

    While there are no completions of the teacher, or they will not be kept, the teacher that is to
    write them counts. Raises ConsistencyError where another model may not score.
    """
    run, taught = graph.run, graph.record(TEACH) if keep_completions else None
    return check_one_teacher(
        taught.intent.models[SFT_TEACHER] if taught else graph.identity(SFT_TEACHER),
        graph.identity(TEACHER),
        allowed=run.recipe.score.allow_inconsistent_teacher,
        declared=run.recipe.models.reference is not None,
    )


def check_scoring_teacher(graph: Graph, intent: Intent) -> None:
    """Refuse to score with another model than the one that wrote the SFT data."""
    teacher_consistency(graph)


def check_rendering(graph: Graph, intent: Intent) -> None:
    """Refuse a teacher that reads prompts otherwise than the one that rendered them."""
    rendered, now = graph.require(PROMPTS).intent.models[SFT_TEACHER], graph.identity(SFT_TEACHER)
    differ = [part for part in rendered.differences(now) if part in RENDERING]
    if differ:
        raise ConsistencyError(
            f"{graph.folder(PROMPTS)}: rendered with a teacher whose "
            f"{', '.join(differ)} changed since",
            hint="undo the change, or `leyden run RECIPE --redo prompts`",
        )


def check_live_teacher(graph: Graph, intent: Intent) -> None:
    """Refuse a live teacher that is not the one that scored, which obeyed the one-teacher rule."""
    scored, live = graph.record(SCORE), intent.models.get(TEACHER)
    if scored is None or live is None:
        return
    # Within one command nothing else compares the teacher with the finished score stage.
    changed = scored.intent.models[TEACHER].differences(live)
    if changed:
        raise ConsistencyError(
            f"{graph.run.place(TEACHER)}: its {', '.join(changed)} changed since it scored the "
            "rollouts",
            hint=f"restore it, or `leyden run RECIPE --redo {SCORE}`",
        )
