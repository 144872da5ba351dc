"""The stage table: every stage of a run, stated once.

A stage is one entry here and one function in ``stages/``. Everything else that deals with stages
reads this table: what runs in which order, what is made from what, what a changed recipe makes
stale, what ``status`` shows, which commands exist.
"""

from collections.abc import Sequence
from typing import Any

from leyden.data.prompt_set import HELDOUT, OPD_SPLIT, SFT_SPLIT
from leyden.engines.base import Ability, Role
from leyden.provenance.records import Record
from leyden.recipe.benchmarks import grader_files, problem_files
from leyden.recipe.schema import Recipe
from leyden.run.run import BASE, REFERENCE, SFT_TEACHER, TEACHER, evaluated
from leyden.run.stage import (
    DISTILL,
    EVALUATE,
    PROBLEMS,
    PROMPTS,
    ROLLOUT,
    SCORE,
    SFT,
    TEACH,
    Artifact,
    Job,
    Stage,
    distill,
)


def makes_reference(recipe: Recipe) -> bool:
    """Whether the run makes its reference policy, rather than adopting one."""
    return recipe.models.reference is None


def sft_job(recipe: Recipe) -> list[Job]:
    """The SFT job, where the run makes its reference policy."""
    return [SFT] if makes_reference(recipe) else []


def _adopted(recipe: Recipe) -> list[str]:
    return [] if makes_reference(recipe) else [REFERENCE]


def _when(condition: object) -> list[str]:
    """The names of a stage with one job, where the recipe has it."""
    return [""] if condition else []


def _prompt_settings(recipe: Recipe, name: str, record: Record | None) -> dict[str, Any]:
    return {"prompts": recipe.prompts.identity(), "template": recipe.template.identity()}


def _prompt_files(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    sources = {"prompts.sft": recipe.prompts.sft, "prompts.opd": recipe.prompts.opd}
    return {name: source.places for name, source in sources.items() if source.places}


def _problem_settings(recipe: Recipe, name: str, record: Record | None) -> dict[str, Any]:
    problems = {b.name: b.problems.identity() for b in recipe.evaluate.benchmarks}
    return {"template": recipe.template.identity(), "evaluate.benchmarks": problems}


def _teach_splits(recipe: Recipe, record: Record | None) -> list[str]:
    """Held-out prompts too, so that SFT has a held-out loss; OPD prompts only on request."""
    return [SFT_SPLIT, HELDOUT, *[OPD_SPLIT] * recipe.teach.answer_opd_prompts]


def _rollout_splits(recipe: Recipe, record: Record | None) -> list[str]:
    """Only the held-out prompts, for measuring, where no arm trains on the store.

    A finished store that holds more is not made again to hold less.
    """
    arms = recipe.distill.resolved_arms().values()
    if any(arm.reads_scores for arm in arms) or not recipe.prompts.heldout:
        return [OPD_SPLIT, HELDOUT]
    return [HELDOUT] if record is None else record.intent.settings["splits"]


def _rollout_settings(recipe: Recipe, name: str, record: Record | None) -> dict[str, Any]:
    splits = _rollout_splits(recipe, record)
    return {"seed": recipe.seed, "rollout": recipe.rollout.identity(), "splits": splits}


def _distill_parents(recipe: Recipe, arm: str) -> list[Job]:
    is_control = recipe.distill.resolved_arms()[arm].objective == "sft"
    return [PROMPTS, *sft_job(recipe), TEACH if is_control else SCORE]


def _distill_models(recipe: Recipe, arm: str) -> list[str]:
    live = recipe.distill.resolved_arms()[arm].refresh_every
    return [TEACHER, *_adopted(recipe)] if live else _adopted(recipe)


def _distill_engines(recipe: Recipe, arm: str) -> list[Role]:
    return ["teacher"] if recipe.distill.resolved_arms()[arm].refresh_every else []


def _distill_settings(recipe: Recipe, arm: str, record: Record | None) -> dict[str, Any]:
    settings = recipe.distill.resolved_arms()[arm]
    own = {"seed": recipe.seed, f"distill.arms.{arm}": settings.identity()}
    live = {"rollout": recipe.rollout.identity(), "score": recipe.score.identity()}
    return own | live if settings.refresh_every else own


def _evaluate_parents(recipe: Recipe, model: str) -> list[Job]:
    made_by = {TEACHER: [], BASE: [], REFERENCE: sft_job(recipe)}
    problems = [PROBLEMS] if recipe.evaluate.benchmarks else []
    return [PROMPTS, *problems, *made_by.get(model, [distill(model)])]


def _evaluate_models(recipe: Recipe, model: str) -> list[str]:
    """The teacher always: reverse KL is measured to it."""
    return [TEACHER, *[model] * (model in (BASE, *_adopted(recipe)))]


def _evaluate_engines(recipe: Recipe, model: str) -> list[Role]:
    return ["teacher" if model == TEACHER else "student"]


def _scoring(top_k: int) -> list[Ability]:
    return ["score", "top_k"] if top_k else ["score"]


def _own_settings(recipe: Recipe, section: str) -> dict[str, Any]:
    return {"seed": recipe.seed, section: getattr(recipe, section).identity()}


_ROWS: Sequence[Stage] = (
    Stage(
        "prompts",
        title="Before the stages: prompts become token ids.",
        artifact=Artifact.PROMPTS,
        runs="leyden.stages.prompts:run_prompts",
        parents=lambda recipe, name: [],
        models=lambda recipe, name: [SFT_TEACHER],
        settings=_prompt_settings,
        files=_prompt_files,
        survives_new_author=True,
    ),
    Stage(
        "problems",
        title="Before the stages: benchmark problems become token ids.",
        artifact=Artifact.PROMPTS,
        runs="leyden.stages.prompts:run_problems",
        names=lambda recipe: _when(recipe.evaluate.benchmarks),
        parents=lambda recipe, name: [PROMPTS],
        settings=_problem_settings,
        files=lambda recipe: problem_files(recipe.evaluate),
    ),
    Stage(
        "teach",
        title="Stage 1: the teacher writes completions of the SFT prompts.",
        artifact=Artifact.COMPLETIONS,
        runs="leyden.stages.teach:run_teach",
        helps="leyden.stages.teach:help_teach",
        names=lambda recipe: _when(makes_reference(recipe)),
        parents=lambda recipe, name: [PROMPTS],
        models=lambda recipe, name: [SFT_TEACHER],
        engines=lambda recipe, name: ["teacher"],
        abilities=lambda recipe, name: ["sample"],
        settings=lambda recipe, name, record: _own_settings(recipe, "teach"),
        splits=_teach_splits,
        checks="leyden.run.teachers:check_rendering",
        survives_new_author=True,
    ),
    Stage(
        "sft",
        title="Stage 2: the base model learns the teacher's completions.",
        artifact=Artifact.MODEL,
        runs="leyden.stages.sft:run_sft",
        names=lambda recipe: _when(makes_reference(recipe)),
        parents=lambda recipe, name: [PROMPTS, TEACH],
        models=lambda recipe, name: [BASE],
        settings=lambda recipe, name, record: _own_settings(recipe, "sft"),
        trains=True,
    ),
    Stage(
        "rollout",
        title="Stage 3: the student writes completions of the OPD prompts.",
        artifact=Artifact.COMPLETIONS,
        runs="leyden.stages.rollout:run_rollout",
        helps="leyden.stages.rollout:help_rollout",
        parents=lambda recipe, name: [PROMPTS, *sft_job(recipe)],
        models=lambda recipe, name: _adopted(recipe),
        engines=lambda recipe, name: ["student"],
        abilities=lambda recipe, name: ["sample"],
        settings=_rollout_settings,
        splits=_rollout_splits,
    ),
    Stage(
        "score",
        title="Stage 4: teacher and reference policy score every token, once.",
        artifact=Artifact.SCORES,
        runs="leyden.stages.score:run_score",
        helps="leyden.stages.score:help_score",
        parents=lambda recipe, name: [PROMPTS, *sft_job(recipe), ROLLOUT],
        models=lambda recipe, name: [TEACHER, *_adopted(recipe)],
        engines=lambda recipe, name: ["teacher", "reference"],
        abilities=lambda recipe, name: _scoring(recipe.score.top_k),
        settings=lambda recipe, name, record: _own_settings(recipe, "score"),
        checks="leyden.run.teachers:check_scoring_teacher",
    ),
    Stage(
        DISTILL,
        title="Stage 5: a student per arm trains on the stored scores.",
        artifact=Artifact.MODEL,
        runs="leyden.stages.distill:run_distill",
        names=lambda recipe: list(recipe.distill.resolved_arms()),
        parents=_distill_parents,
        models=_distill_models,
        engines=_distill_engines,
        abilities=lambda recipe, name: _scoring(recipe.distill.resolved_arms()[name].top_k),
        settings=_distill_settings,
        trains=True,
        checks="leyden.run.teachers:check_live_teacher",
    ),
    Stage(
        EVALUATE,
        title="Stage 6: every model answers the same problems.",
        artifact=Artifact.RESULTS,
        runs="leyden.stages.evaluate:run_evaluate",
        helps="leyden.stages.evaluate:help_evaluate",
        names=evaluated,
        parents=_evaluate_parents,
        models=_evaluate_models,
        engines=_evaluate_engines,
        abilities=lambda recipe, name: ["sample"],
        settings=lambda recipe, model, record: _own_settings(recipe, "evaluate"),
        files=lambda recipe: grader_files(recipe.evaluate),
    ),
)
STAGES: dict[str, Stage] = {stage.name: stage for stage in _ROWS}
