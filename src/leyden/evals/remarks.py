"""Sentences about what a recipe allows and its author often does not mean."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from leyden.data.prompt_set import BENCHMARK, OPD_SPLIT, SFT_SPLIT, RenderedPrompt
from leyden.evals.own_files import fitting_grader
from leyden.recipe.schema import Recipe
from leyden.recipe.training import Optimisation


def prompt_remarks(
    recipe: Recipe, prompts: Sequence[RenderedPrompt], default_system: str
) -> list[str]:
    """Sentences about what is allowed and often not meant."""
    rows = Counter(prompt.split for prompt in prompts)
    texts = {name: {p.text for p in prompts if p.split == name} for name in rows}
    sentences = []
    if default_system:
        sentences.append(
            f"the chat template adds a system prompt of its own, {default_system[:80]!r}; set "
            "template.system to choose another"
        )
    if same := len(texts.get(SFT_SPLIT, set()) & texts.get(OPD_SPLIT, set())):
        sentences.append(
            f"{same:,} of the {rows[OPD_SPLIT]:,} OPD prompts are SFT prompts as well: the student "
            "has already learned the teacher's answers to them"
        )
    for section, available, settings in _batches(recipe, rows):
        if settings.batch_size > available:
            sentences.append(
                f"{section}.batch_size = {settings.batch_size:,} is over its {available:,} rows: "
                f"each step learns every row {settings.batch_size / available:.1f} times"
            )
    return sentences


def grader_remarks(recipe: Recipe, problems: Collection[RenderedPrompt]) -> list[str]:
    """Sentences about benchmarks whose answers are not what their grader is for."""
    sentences = []
    for benchmark in recipe.evaluate.benchmarks:
        answers = [p.answer for p in problems if p.split == BENCHMARK + benchmark.name]
        grader, why = fitting_grader(answers) if answers else ("math", "")
        if benchmark.grader == "math" != grader:
            sentences.append(
                f"benchmark {benchmark.name} is graded as mathematics, and {why}; grader = "
                f'"{grader}" compares them as what they are'
            )
    return sentences


def _batches(recipe: Recipe, rows: Mapping[str, int]) -> Iterator[tuple[str, int, Optimisation]]:
    """(section, rows to train on, settings) of everything that is trained."""
    taught = rows.get(SFT_SPLIT, 0) * recipe.teach.samples_per_prompt
    fresh = rows.get(OPD_SPLIT, 0) * recipe.teach.samples_per_prompt
    rolled = rows.get(OPD_SPLIT, 0) * recipe.rollout.samples_per_prompt
    if recipe.models.reference is None:
        yield "sft", taught, recipe.sft
    for name, arm in recipe.distill.resolved_arms().items():
        control = fresh if recipe.teach.answer_opd_prompts else taught
        yield f"distill.arms.{name}", control if arm.objective == "sft" else rolled, arm
