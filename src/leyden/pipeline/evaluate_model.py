"""Evaluate any model folder on its own: what a run's last stage does, without a run."""

from dataclasses import replace
from pathlib import Path

from leyden.data.prompt_set import RenderedPrompt, render_all, write_prompt_set
from leyden.data.render import Renderer
from leyden.errors import ConfigError, LeydenError
from leyden.evals.grading import check_graders
from leyden.evals.problems import read_problems
from leyden.evals.results import SCORES, read_scores
from leyden.files import disk_errors, write_json
from leyden.inference.sample import Sampler
from leyden.models.hub import model_folder
from leyden.models.vocabulary import load_sizes, load_tokenizer
from leyden.pipeline.pipeline import environment_of, lock
from leyden.provenance.identity import fingerprint, hash_file, identify_model
from leyden.provenance.records import (
    Intent,
    Record,
    check_drift,
    read_record,
    write_intent,
    write_record,
)
from leyden.recipe.schema import Evaluation
from leyden.run.fits import check_length
from leyden.run.run import BENCHMARK, PROBLEMS, grader_files, numerics_of, problem_files
from leyden.stages.evaluate import answer_benchmarks
from leyden.telemetry.progress import Progress
from leyden.train.save import use_threads


def evaluate_model(settings: Evaluation, out: Path | None, progress: Progress) -> Path:
    """Make, resume or find the evaluation that ``settings`` describe; the folder it lies in.

    ``out`` defaults to a folder of ``evaluations/`` named by model and settings. A folder that was
    begun from another model, file or setting is refused.
    """
    if not settings.evaluate.benchmarks:
        raise ConfigError(
            "no benchmark given", hint="leyden evaluate MODEL --benchmarks gsm8k aime24"
        )
    model = model_folder(settings.model)
    intent = _intent(settings, model)
    folder = out or Path("evaluations") / f"{model.name}-{intent.digest[:8]}"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        _check_same(folder, intent)
        if read_record(folder) is None:
            sampler, prompts = _prepare(settings, model, intent, progress)
            write_intent(folder, intent)  # from here on the folder is this evaluation's
            record = _evaluate(settings, intent, folder, sampler, prompts)
            write_record(folder, replace(record, environment=environment_of(settings.execution)))
        read_scores(folder)
    return folder


def _intent(settings: Evaluation, model: Path) -> Intent:
    files = problem_files(settings.evaluate) | grader_files(settings.evaluate)
    return Intent(
        "evaluate",
        {
            "seed": settings.seed,
            "template": settings.template.identity(),
            "evaluate": settings.evaluate.identity(),
        },
        {name: hash_file(path) for name, path in files.items()},
        {"model": identify_model(model)},
        numerics_of(settings.execution),
    )


def _check_same(folder: Path, intent: Intent) -> None:
    try:
        check_drift(folder, intent, redo="")
    except LeydenError as error:
        raise type(error)(
            str(error), hint="undo the change, or give a new folder with --out"
        ) from error


def _prepare(
    settings: Evaluation, model: Path, intent: Intent, progress: Progress
) -> tuple[Sampler, dict[str, RenderedPrompt]]:
    """The model ready to be asked, and the problems as it is asked them, by its own tokenizer and
    template; whatever can be wrong with files, graders or lengths shows here."""
    check_graders(settings.evaluate)
    renderer = Renderer(load_tokenizer(model), settings.template, model)
    (vocab_size, context), prompts = load_sizes(model), {}
    for benchmark in settings.evaluate.benchmarks:
        found = read_problems(benchmark)
        for prompt in render_all(renderer, found, BENCHMARK + benchmark.name, progress):
            check_length(prompt, benchmark.max_new_tokens, context)
            prompts[prompt.id] = prompt
    sampler = Sampler(
        model,
        vocab_size,
        renderer.stop_ids,
        settings.seed,
        settings.execution,
        intent.digest,
        "evaluate",
        progress,
    )
    return sampler, prompts


def _evaluate(
    settings: Evaluation,
    intent: Intent,
    folder: Path,
    sampler: Sampler,
    prompts: dict[str, RenderedPrompt],
) -> Record:
    """Sample and grade."""
    use_threads(settings.execution)
    rendered = write_prompt_set(folder / PROBLEMS, list(prompts.values()))
    scores, counts, seconds = answer_benchmarks(
        sampler, settings.evaluate, prompts, folder, tokenizer=sampler.model
    )
    write_json(folder / SCORES, scores)
    return Record(intent, fingerprint(scores), {**counts, "problems": rendered}, seconds)
