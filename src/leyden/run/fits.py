"""What prompts, caps and models must fit into, checked when prompts are rendered and before every
stage that reads them: caps and models may change between."""

from collections.abc import Iterable

from leyden.data.prompt_set import RenderedPrompt
from leyden.errors import AlignmentError, ConfigError
from leyden.models.vocabulary import load_sizes, load_tokenizer, vocabulary_digest
from leyden.run.artifacts import prompt_counts
from leyden.run.run import BENCHMARK, Run


def check_limits(
    run: Run, prompts: Iterable[RenderedPrompt], *, vocab_size: int | None = None
) -> None:
    """Prompt and completion must fit the recipe's cap and every model's context, and top k and
    ``vocab_size``, the ids that log-probs are over, every model's vocabulary."""
    common = common_vocabulary(run)
    if run.recipe.score.top_k >= common:
        raise ConfigError(
            f"score.top_k = {run.recipe.score.top_k} is not below the vocabulary of {common}",
            hint="lower score.top_k",
        )
    if vocab_size is not None and vocab_size > common:
        raise AlignmentError(
            f"the run's prompts were rendered for {vocab_size} ids, and a model now has {common}",
            hint="restore that model, or `leyden run RECIPE --redo prompts`",
        )
    context = min(load_sizes(run.place(role))[1] for role in _present(run))
    caps = _caps(run)
    for prompt in prompts:
        if len(prompt.ids) > (most := run.recipe.prompts.max_prompt_tokens):
            raise ConfigError(
                f"prompt {prompt.id} has {len(prompt.ids)} tokens, over "
                f"prompts.max_prompt_tokens = {most}",
                hint="raise the cap or remove the prompt",
            )
        check_length(prompt, caps[prompt.split], context)


def _caps(run: Run) -> dict[str, int]:
    """Split -> most tokens that a completion of its prompts may have."""
    recipe = run.recipe
    teach, rollout = recipe.teach.max_new_tokens, recipe.rollout.max_new_tokens
    both = max(teach, rollout)
    caps = {"sft": teach, "opd": both if recipe.teach.answer_opd_prompts else rollout}
    measured = recipe.evaluate.kl_max_new_tokens if recipe.evaluate.kl_prompts else 0
    caps["heldout"] = max(both, measured)
    return caps | {BENCHMARK + b.name: b.max_new_tokens for b in recipe.evaluate.benchmarks}


def check_length(prompt: RenderedPrompt, cap: int, context: int) -> None:
    """A prompt and a completion of ``cap`` tokens must fit into ``context``."""
    length = len(prompt.ids)
    if length + cap > context:
        raise ConfigError(
            f"prompt {prompt.id} has {length} tokens; with max_new_tokens = {cap} it exceeds "
            f"the models' context of {context}",
            hint="lower max_new_tokens or remove the prompt",
        )


def outside_roles(run: Run) -> list[str]:
    """The models from outside the run; they must share ids."""
    models = run.recipe.models
    optional = ["reference"] * bool(models.reference) + ["sft_teacher"] * bool(models.sft_teacher)
    return ["teacher", "base", *optional]


def common_vocabulary(run: Run) -> int:
    """Ids that every model has; models of one tokenizer may pad their embeddings differently."""
    return min(load_sizes(run.place(role))[0] for role in _present(run))


def _present(run: Run) -> list[str]:
    """Late stages do without some models: those that have gone limit nothing any more."""
    return [role for role in outside_roles(run) if run.present(role)]


def check_vocabulary(run: Run, role: str) -> None:
    """Ids must mean the same to the model in ``role`` as to the tokenizer that made them."""
    found = vocabulary_digest(load_tokenizer(run.place(role)))
    if found != prompt_counts(run)["vocabulary"]:
        raise AlignmentError(
            f"{run.place(role)}: numbers its tokens otherwise than the tokenizer that rendered "
            "the prompts",
            hint=f"use a {role} of the same vocabulary",
        )
