"""Before the stages: read prompt and problem files and render them to token ids, once."""

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from leyden.data.prompt_set import (
    BENCHMARK,
    HELDOUT,
    OPD_SPLIT,
    SFT_SPLIT,
    PromptFacts,
    RenderedPrompt,
    write_prompt_set,
)
from leyden.data.render import Renderer, render_all
from leyden.data.sources import read_prompts
from leyden.errors import AlignmentError, ConfigError
from leyden.evals.grading import check_graders, try_graders
from leyden.evals.overlap import warn_of_overlap
from leyden.evals.problems import read_problems
from leyden.evals.remarks import grader_remarks, prompt_remarks
from leyden.models.hub import fetched
from leyden.models.vocabulary import (
    check_same_vocabulary,
    load_sizes,
    load_tokenizer,
    vocabulary_digest,
    vocabulary_size,
)
from leyden.provenance.records import Intent, Record
from leyden.recipe.sampling import PromptFile
from leyden.run.artifacts import open_prompts
from leyden.run.fits import check_limits, common_vocabulary, outside_roles
from leyden.run.graph import Graph
from leyden.run.run import SFT_TEACHER, Run
from leyden.run.stage import Job


@dataclass(frozen=True)
class Rendering:
    """All prompts of a run as token ids, and what rendered them."""

    renderer: Renderer
    prompts: list[RenderedPrompt]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.renderer.tokenizer


def render_prompts(run: Run) -> Rendering:
    """Read and render every prompt of a run. Raises ConfigError or AlignmentError where one, or the
    models' tokenizers, do not fit."""
    folder = run.place(SFT_TEACHER)
    tokenizer = load_tokenizer(folder)
    _check_models(run, tokenizer, folder)
    renderer = Renderer(tokenizer, run.recipe.template, folder)
    prompts = _render_prompts(run, renderer)
    check_limits(run, prompts)
    return Rendering(renderer, prompts)


def render_problems(run: Run, names: Collection[str]) -> Iterator[RenderedPrompt]:
    """Read and render the problems of the benchmarks ``names``, one benchmark after the other."""
    folder = run.place(SFT_TEACHER)
    renderer = Renderer(load_tokenizer(folder), run.recipe.template, folder)
    for benchmark in run.recipe.evaluate.benchmarks:
        if benchmark.name in names:
            rows, split = read_problems(benchmark), BENCHMARK + benchmark.name
            rendered = render_all(renderer, rows, split, run.progress)
            check_limits(run, rendered)
            yield from rendered


def run_prompts(graph: Graph, intent: Intent) -> Record:
    """Make ``prompts/``: every prompt of the run as token ids, with its text and answer."""
    run = graph.run
    rendering = render_prompts(run)
    tokenizer, renderer = rendering.tokenizer, rendering.renderer
    facts = PromptFacts(
        stop_ids=renderer.stop_ids,
        vocab_size=min(common_vocabulary(run), vocabulary_size(tokenizer)),
        vocabulary=vocabulary_digest(tokenizer),
        template=(renderer.before, renderer.after),
    )
    record = _write(run, intent, rendering.prompts, tokenizer)
    _warn(prompt_remarks(run.recipe, rendering.prompts, renderer.default_system))
    return replace(record, facts=asdict(facts))


def run_problems(graph: Graph, intent: Intent) -> Record:
    """Make ``problems/``: every benchmark's problems, rendered like the prompts.

    A problem that cannot be graded is reported now, before anything is sampled; so is training on a
    problem.
    """
    run = graph.run
    settings = run.recipe.evaluate
    check_graders(settings)
    rendered = list(render_problems(run, [b.name for b in settings.benchmarks]))
    record = _write(run, intent, rendered, load_tokenizer(run.place(SFT_TEACHER)))
    try_graders(settings, rendered)
    _warn(grader_remarks(run.recipe, rendered))
    prompts = open_prompts(graph).values()
    trained = {
        split: [(p.id, p.text) for p in prompts if p.split == split]
        for split in (SFT_SPLIT, OPD_SPLIT)
    }
    overlap = {
        b.name: warn_of_overlap(b.name, read_problems(b), trained) for b in settings.benchmarks
    }
    return replace(record, counts=record.counts | {"overlap": overlap})


def _warn(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        logging.getLogger(__name__).warning("%s", sentence)


def _write(
    run: Run,
    intent: Intent,
    prompts: Sequence[RenderedPrompt],
    tokenizer: PreTrainedTokenizerBase,
) -> Record:
    unknown = _warn_of_unknown(prompts, tokenizer.unk_token_id)
    digest = write_prompt_set(run.folder(Job.parse(intent.stage)), prompts)
    counts = {
        "rows": len(prompts),
        "tokens": sum(len(p.ids) for p in prompts),
        "splits": dict(Counter(p.split for p in prompts)),
        "with_unknown_tokens": unknown,
    }
    return Record(intent, digest, counts, device_seconds=0.0)


def _warn_of_unknown(prompts: Sequence[RenderedPrompt], unknown_id: int | None) -> int:
    """The number of prompts with text that the tokenizer can only write as its unknown token."""
    unknown = [p for p in prompts if unknown_id in p.ids]
    if unknown:
        logging.getLogger(__name__).warning(
            "%d of %d prompts hold characters that the tokenizer does not know, first %s: %r",
            len(unknown),
            len(prompts),
            unknown[0].id,
            unknown[0].text[:60],
        )
    return len(unknown)


def _render_prompts(run: Run, renderer: Renderer) -> list[RenderedPrompt]:
    """The SFT prompts, then the OPD prompts, of which the last become held-out ones."""
    recipe = run.recipe
    opd = _render(run, renderer, recipe.prompts.opd, OPD_SPLIT)
    heldout = recipe.prompts.heldout
    if heldout >= len(opd):
        raise ConfigError(
            f"prompts.heldout = {heldout} leaves none of the {len(opd)} OPD prompts for training",
            hint="lower prompts.heldout or give more prompts",
        )
    cut = len(opd) - heldout
    kept = [replace(p, split=HELDOUT, id=p.id.replace(OPD_SPLIT, HELDOUT, 1)) for p in opd[cut:]]
    return _render(run, renderer, recipe.prompts.sft, SFT_SPLIT) + opd[:cut] + kept


def _render(run: Run, renderer: Renderer, source: PromptFile, split: str) -> list[RenderedPrompt]:
    prompts = read_prompts(source, files=fetched(source))
    return render_all(renderer, prompts, split, run.progress)


def _check_models(run: Run, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Every model of the run must know the rendering tokenizer's ids by the same names."""
    largest = vocabulary_size(tokenizer) - 1
    for role in outside_roles(run):
        place = run.place(role)
        check_same_vocabulary(tokenizer, load_tokenizer(place), names=(str(folder), str(place)))
        if largest >= load_sizes(place)[0]:
            raise AlignmentError(
                f"{place}: the tokenizer's id {largest} is outside the model's vocabulary of "
                f"{load_sizes(place)[0]}",
                hint="the model's embeddings and its tokenizer do not belong together",
            )
