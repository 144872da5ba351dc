"""Before the stages: read prompt and problem files and render them to ids, once."""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

from leyden.data.prompt_set import RenderedPrompt, render_all, write_prompt_set
from leyden.data.render import Renderer
from leyden.data.sources import read_prompts
from leyden.errors import AlignmentError, ConfigError
from leyden.evals.grading import check_graders
from leyden.evals.overlap import ProblemIndex
from leyden.evals.problems import Problem, read_problems
from leyden.models.vocabulary import (
    check_same_vocabulary,
    load_sizes,
    load_tokenizer,
    vocabulary_digest,
)
from leyden.provenance.records import Intent, Record
from leyden.recipe.sampling import PromptFile
from leyden.run.artifacts import open_prompts
from leyden.run.fits import check_limits, common_vocabulary, outside_roles
from leyden.run.run import BENCHMARK, Run


def run_prompts(run: Run, intent: Intent) -> Record:
    """Make ``prompts/``: every prompt of the run as token ids, with its text and answer."""
    folder = run.place("sft_teacher")
    tokenizer = load_tokenizer(folder)
    _check_models(run, tokenizer, folder)
    renderer = Renderer(tokenizer, run.recipe.template, folder)
    record = _write(run, intent, _render_all(run, renderer), tokenizer)
    about = {
        "stop_ids": list(renderer.stop_ids),
        "vocab_size": common_vocabulary(run),
        "vocabulary": vocabulary_digest(tokenizer),
        "template": [renderer.before, renderer.after],
    }
    return replace(record, counts=record.counts | about)


def run_problems(run: Run, intent: Intent) -> Record:
    """Make ``problems/``: every benchmark's problems, rendered like the prompts.

    What cannot be graded is told now, before anything is sampled; so is training on a problem.
    """
    folder, settings = run.place("sft_teacher"), run.recipe.evaluate
    tokenizer = load_tokenizer(folder)
    check_graders(settings)
    renderer = Renderer(tokenizer, run.recipe.template, folder)
    problems = {b.name: read_problems(b) for b in settings.benchmarks}
    rendered = [
        prompt
        for name, found in problems.items()
        for prompt in render_all(renderer, found, BENCHMARK + name, run.progress)
    ]
    record = _write(run, intent, rendered, tokenizer)
    overlap = {name: _overlap(run, name, found) for name, found in problems.items()}
    return replace(record, counts=record.counts | {"overlap": overlap})


def _overlap(run: Run, name: str, problems: list[Problem]) -> dict[str, int]:
    """Split -> how many of its prompts hold something of a problem; warned of where any do."""
    index, found = ProblemIndex({p.id: p.question for p in problems}), {}
    for split in ("sft", "opd"):
        prompts = [(p.id, p.text) for p in open_prompts(run).values() if p.split == split]
        overlaps = list(index.find(prompts))
        found[split] = len(overlaps)
        if overlaps:
            logging.getLogger(__name__).warning(
                "%d of %d %s prompts hold problems of the benchmark %s (%d of them exactly), first "
                "%s: %r",
                len(overlaps),
                len(prompts),
                split,
                name,
                sum(o.kind == "exact" for o in overlaps),
                overlaps[0].prompt,
                overlaps[0].shared[:80],
            )
    return found


def _write(run: Run, intent: Intent, prompts: list[RenderedPrompt], tokenizer) -> Record:
    check_limits(run, prompts)
    unknown = _warn_of_unknown(prompts, tokenizer.unk_token_id)
    digest = write_prompt_set(run.folder(intent.stage), prompts)
    counts = {
        "rows": len(prompts),
        "tokens": sum(len(p.ids) for p in prompts),
        "splits": dict(Counter(p.split for p in prompts)),
        "with_unknown_tokens": unknown,
    }
    return Record(intent, digest, counts, device_seconds=0.0)


def _warn_of_unknown(prompts: list[RenderedPrompt], unknown_id: int | None) -> int:
    """How many prompts hold text that the tokenizer can only write as its unknown token."""
    found = [p for p in prompts if unknown_id in p.ids]
    if found:
        logging.getLogger(__name__).warning(
            "%d of %d prompts hold characters that the tokenizer does not know, first %s: %r",
            len(found),
            len(prompts),
            found[0].id,
            found[0].text[:60],
        )
    return len(found)


def _render_all(run: Run, renderer: Renderer) -> list[RenderedPrompt]:
    recipe = run.recipe
    opd = _render(run, renderer, recipe.prompts.opd, "opd")
    heldout = recipe.prompts.heldout
    if heldout >= len(opd):
        raise ConfigError(
            f"prompts.heldout = {heldout} leaves none of the {len(opd)} OPD prompts for training",
            hint="lower prompts.heldout or give more prompts",
        )
    cut = len(opd) - heldout
    kept = [replace(p, split="heldout", id=f"heldout/{p.id.partition('/')[2]}") for p in opd[cut:]]
    return _render(run, renderer, recipe.prompts.sft, "sft") + opd[:cut] + kept


def _render(run: Run, renderer: Renderer, source: PromptFile, split: str) -> list[RenderedPrompt]:
    return render_all(renderer, read_prompts(source), split, run.progress)


def _check_models(run: Run, tokenizer, folder: Path) -> None:
    """Every model of the run must know the rendering tokenizer's ids by the same names."""
    largest = max(tokenizer.get_vocab().values())
    for role in outside_roles(run):
        place = run.place(role)
        check_same_vocabulary(tokenizer, load_tokenizer(place), names=(str(folder), str(place)))
        if largest >= load_sizes(place)[0]:
            raise AlignmentError(
                f"{place}: the tokenizer's id {largest} is outside the model's vocabulary of "
                f"{load_sizes(place)[0]}",
                hint="the model's embeddings and its tokenizer do not belong together",
            )
