"""Evaluate any model on its own: the last stage of a run, without a run."""

import logging
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from leyden.data.prompt_set import (
    BENCHMARK,
    RENDERED,
    RenderedPrompt,
    read_prompt_set,
    write_prompt_set,
)
from leyden.data.render import Renderer, render_all
from leyden.data.sources import hash_data
from leyden.engines.base import EngineSpec, OpenEngine
from leyden.engines.open import open_engine
from leyden.errors import ConfigError
from leyden.evals.grading import check_graders, try_graders
from leyden.evals.problems import read_problems
from leyden.evals.results import Results, read_results, write_results
from leyden.files import disk_errors
from leyden.inference.sample import Sampler
from leyden.models.hub import model_folder
from leyden.models.vocabulary import load_sizes, load_tokenizer, vocabulary_size
from leyden.pipeline.pipeline import settled
from leyden.provenance.changes import check_drift, check_dtype, warn_of_numerics
from leyden.provenance.identity import ModelIdentity, hash_file, identify_model
from leyden.provenance.records import (
    Intent,
    Numerics,
    Record,
    read_intent,
    read_record,
    reopen,
    write_intent,
    write_record,
)
from leyden.recipe.benchmarks import grader_files, problem_files
from leyden.recipe.schema import Evaluation
from leyden.run.environment import environment_of, use_threads
from leyden.run.fits import check_problems
from leyden.run.layout import EVALUATIONS
from leyden.run.lineage import holds_work
from leyden.run.lock import lock
from leyden.run.stage import EVALUATE, PROBLEMS
from leyden.stages.evaluate import evaluate_benchmarks
from leyden.telemetry.progress import Progress, silent


def evaluate_model(
    settings: Evaluation,
    out: Path | None = None,
    progress: Progress = silent,
    open_engine: OpenEngine = open_engine,
) -> Path:
    """Make, resume or find the evaluation that ``settings`` describe; the folder it lies in.

    ``out`` defaults to a folder of ``evaluations/`` named by model and settings. A folder that was
    begun from another model, file or setting is refused.
    """
    if not settings.evaluate.benchmarks:
        raise ConfigError(
            "no benchmark given", hint="leyden evaluate MODEL --benchmarks gsm8k aime24"
        )
    model = model_folder(settings.model)
    identity = identify_model(model)
    tokenizer = load_tokenizer(model)
    vocab_size = min(load_sizes(model)[0], vocabulary_size(tokenizer))
    spec = EngineSpec("student", str(model), settings.execution, vocab_size, settings.engine)
    engine = open_engine(spec)
    intent = _intent(settings, identity, {"student": engine.numerics()})
    folder = out or EVALUATIONS / f"{model.name}-{intent.digest[:8]}"
    new = read_intent(folder) is None  # then a mistake in files or settings leaves no folder
    prepared = _prepare(settings, model, tokenizer, progress) if new else None
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        begun = read_intent(folder)
        if begun is not None:
            check_drift(
                folder, begun, intent, hint="undo the change, or give a new folder with --out"
            )
        if not settled(record := read_record(folder)):
            if record is not None:
                reopen(folder)
            renderer, prompts = prepared or _prepare(settings, model, tokenizer, progress)
            if begun is not None and holds_work(folder):
                check_dtype(folder, begun, intent)
                warn_of_numerics(folder, begun, intent)
                prompts = _as_begun(folder, prompts)
            else:
                write_intent(folder, intent)  # from here on the folder is this evaluation's
            sampler = Sampler(
                engine,
                spec,
                renderer.stop_ids,
                vocab_size,
                settings.seed,
                settings.execution.rows_per_unit,
                intent.digest,
                EVALUATE,
                progress,
                load_sizes(model)[1],
            )
            with closing(engine):
                record = _evaluate(settings, intent, folder, sampler, renderer, prompts)
            write_record(folder, replace(record, environment=environment_of(settings.execution)))
        read_results(folder)
    return folder


def _intent(settings: Evaluation, identity: ModelIdentity, numerics: dict[str, Numerics]) -> Intent:
    files = problem_files(settings.evaluate) | grader_files(settings.evaluate)
    hashes = {name: hash_data(*places) for name, places in files.items()}
    return Intent(
        EVALUATE,
        {
            "seed": settings.seed,
            "template": settings.template.identity(),
            "evaluate": settings.evaluate.identity(),
        },
        {name: digest for name, digest in hashes.items() if digest},
        {"model": identity},
        numerics,
    )


def _prepare(
    settings: Evaluation, model: Path, tokenizer: PreTrainedTokenizerBase, progress: Progress
) -> tuple[Renderer, dict[str, RenderedPrompt]]:
    """The problems as the model is asked them, by its own tokenizer and template.

    Whatever can be wrong with files, graders or lengths shows here, before the model is loaded.
    """
    check_graders(settings.evaluate)
    renderer = Renderer(tokenizer, settings.template, model)
    context, prompts = load_sizes(model)[1], {}
    for benchmark in settings.evaluate.benchmarks:
        problems = read_problems(benchmark)
        rendered = list(render_all(renderer, problems, BENCHMARK + benchmark.name, progress))
        check_problems(rendered, benchmark.max_new_tokens, context)
        prompts |= {prompt.id: prompt for prompt in rendered}
    try_graders(settings.evaluate, list(prompts.values()))
    return renderer, prompts


def _as_begun(folder: Path, prompts: dict[str, RenderedPrompt]) -> dict[str, RenderedPrompt]:
    """The prompts that the evaluation in ``folder`` began with; ``prompts`` where it kept none.

    Files, template and tokenizer are the same, but a template may write something else every day.
    """
    place = folder / str(PROBLEMS)
    if not (place / RENDERED).is_file():
        return prompts
    kept = read_prompt_set(place, expected=hash_file(place / RENDERED))
    if kept != prompts:
        logging.getLogger(__name__).warning(
            "%s: the chat template now writes another prompt than when this evaluation began (a "
            "date?); going on with the prompts of then",
            folder,
        )
    return kept


def _evaluate(
    settings: Evaluation,
    intent: Intent,
    folder: Path,
    sampler: Sampler,
    renderer: Renderer,
    prompts: dict[str, RenderedPrompt],
) -> Record:
    """Sample and grade."""
    use_threads(settings.execution)
    rendered = write_prompt_set(folder / str(PROBLEMS), list(prompts.values()))
    measured = evaluate_benchmarks(sampler, settings.evaluate, prompts, folder, renderer.tokenizer)
    results = Results(measured.results)
    write_results(folder, results)
    counts = {**measured.counts, "problems": rendered}
    return Record(intent, results.fingerprint, counts, measured.seconds)
