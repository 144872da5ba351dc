"""Check that what a recipe asks for fits the models: ids, lengths, top k.

Prompts are checked when they are rendered, and again before every stage that reads them, since caps
and models may change in between.
"""

import logging
from collections.abc import Iterable, Sequence

from leyden.data.prompt_set import BENCHMARK, HELDOUT, OPD_SPLIT, SFT_SPLIT, RenderedPrompt
from leyden.errors import AlignmentError, ConfigError
from leyden.models.vocabulary import load_sizes, load_tokenizer, vocabulary_digest
from leyden.run.artifacts import prompt_facts
from leyden.run.graph import Graph
from leyden.run.run import BASE, REFERENCE, SFT_TEACHER, TEACHER, Run


def check_limits(
    run: Run, prompts: Iterable[RenderedPrompt], *, vocab_size: int | None = None
) -> None:
    """Raise ConfigError or AlignmentError unless everything fits the models that are present.

    Each prompt with its longest completion must fit the shortest context; of a benchmark's problems
    one must. ``score.top_k`` and ``vocab_size``, the ids that log-probs are over, must fit the
    smallest vocabulary.
    """
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
    context = shortest_context(run)
    caps, most = _caps(run), run.recipe.prompts.max_prompt_tokens
    problems: dict[str, list[RenderedPrompt]] = {}
    for prompt in prompts:
        if prompt.split.startswith(BENCHMARK):
            problems.setdefault(prompt.split, []).append(prompt)
            continue
        if len(prompt.ids) > most:
            raise ConfigError(
                f"prompt {prompt.id} has {len(prompt.ids)} tokens, over "
                f"prompts.max_prompt_tokens = {most}",
                hint="raise the cap or remove the prompt",
            )
        check_length(prompt, caps[prompt.split], context)
    for split, asked in problems.items():
        check_problems(asked, caps[split], context)


def check_problems(problems: Sequence[RenderedPrompt], cap: int, context: int) -> None:
    """Warn of problems without room for ``cap`` tokens. Raise ConfigError where none has it, which
    is a mistake of settings."""
    short = [p for p in problems if len(p.ids) + cap > context]
    if len(short) == len(problems):
        check_length(min(problems, key=lambda p: len(p.ids)), cap, context)
    if short:
        longest = max(short, key=lambda p: len(p.ids))
        logging.getLogger(__name__).warning(
            "%s: %d of %d problems leave less room than max_new_tokens = %d in the context of %d; "
            "their answers end where it does; the longest has %d tokens",
            problems[0].split.removeprefix(BENCHMARK),
            len(short),
            len(problems),
            cap,
            context,
            len(longest.ids),
        )


def shortest_context(run: Run) -> int:
    """Tokens that every outside model of the run which is here can read."""
    return min(load_sizes(run.place(role))[1] for role in _present(run))


def _caps(run: Run) -> dict[str, int]:
    """Split -> the most tokens that a completion of its prompts may have."""
    recipe = run.recipe
    teach, rollout = recipe.teach.max_new_tokens, recipe.rollout.max_new_tokens
    longer = max(teach, rollout)
    measured = recipe.evaluate.kl_max_new_tokens if recipe.evaluate.kl_prompts else 0
    return {
        SFT_SPLIT: teach,
        OPD_SPLIT: longer if recipe.teach.answer_opd_prompts else rollout,
        HELDOUT: max(longer, measured),
        **{BENCHMARK + b.name: b.max_new_tokens for b in recipe.evaluate.benchmarks},
    }


def check_length(prompt: RenderedPrompt, cap: int, context: int) -> None:
    """Raise ConfigError unless the prompt and a completion of ``cap`` tokens fit ``context``."""
    length = len(prompt.ids)
    if length + cap > context:
        raise ConfigError(
            f"prompt {prompt.id} has {length} tokens; with max_new_tokens = {cap} it exceeds "
            f"the models' context of {context}",
            hint="lower that max_new_tokens, or remove the prompt from its file",
        )


def outside_roles(run: Run) -> list[str]:
    """The roles of all models from outside the run. Token ids cross between them."""
    models = run.recipe.models
    optional = [REFERENCE] * bool(models.reference) + [SFT_TEACHER] * bool(models.sft_teacher)
    return [TEACHER, BASE, *optional]


def common_vocabulary(run: Run) -> int:
    """The number of ids that every model has: one family may pad its embeddings differently."""
    return min(load_sizes(run.place(role))[0] for role in _present(run))


def _present(run: Run) -> list[str]:
    """The outside models that are here. Late stages do without some, which then limit nothing."""
    return [role for role in outside_roles(run) if run.has(role)]


def check_vocabulary(graph: Graph, model: str) -> None:
    """Raise AlignmentError unless ``model`` numbers its tokens like the rendering tokenizer."""
    place = graph.run.place(model)
    if vocabulary_digest(load_tokenizer(place)) != prompt_facts(graph).vocabulary:
        raise AlignmentError(
            f"{place}: numbers its tokens otherwise than the tokenizer that rendered the prompts",
            hint=f"use a {model} of the same vocabulary",
        )
