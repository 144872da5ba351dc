"""Evaluate any model folder on its own: what a run's last stage does, without a run."""

import importlib.metadata
from dataclasses import replace
from pathlib import Path

from leyden.config import Evaluation
from leyden.data.problems import read_problems
from leyden.data.prompt_set import RenderedPrompt, render_all, write_prompt_set
from leyden.data.render import Renderer, load_sizes, load_tokenizer
from leyden.engines.sample_store import Sampler
from leyden.errors import ConfigError, LeydenError
from leyden.evals.grading import check_graders
from leyden.files import disk_errors, write_json
from leyden.hub import model_folder
from leyden.identity import fingerprint, hash_file, identify_model
from leyden.limits import check_length
from leyden.lineage import (
    Intent,
    Record,
    check_drift,
    read_record,
    write_intent,
    write_record,
)
from leyden.pipeline import environment_of, lock
from leyden.run import BENCHMARK, PROBLEMS, Progress
from leyden.scores import SCORES, read_scores
from leyden.stages.evaluate import answer_benchmarks
from leyden.train.artifact import use_threads


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
            prompts, renderer = _render(settings, model, progress)
            write_intent(folder, intent)  # from here on the folder is this evaluation's
            record = _evaluate(settings, model, intent, folder, prompts, renderer, progress)
            write_record(folder, replace(record, environment=environment_of(settings.execution)))
        read_scores(folder)
    return folder


def _intent(settings: Evaluation, model: Path) -> Intent:
    benchmarks = settings.evaluate.benchmarks
    files = {f"problems of {b.name}": b.problems.file for b in benchmarks}
    files |= {f"grader of {b.name}": b.grader.rpartition(":")[0] for b in benchmarks}
    inputs = {name: hash_file(Path(f)) for name, f in files.items() if f and Path(f).is_file()}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    return Intent(
        "evaluate",
        {
            "seed": settings.seed,
            "template": settings.template.identity(),
            "evaluate": settings.evaluate.identity(),
        },
        inputs,
        {"model": identify_model(model)},
        {"dtype": settings.execution.dtype, "engine": "transformers", **versions},
    )


def _check_same(folder: Path, intent: Intent) -> None:
    try:
        check_drift(folder, intent, redo="")
    except LeydenError as error:
        raise type(error)(
            str(error), hint="undo the change, or give a new folder with --out"
        ) from error


def _render(
    settings: Evaluation, model: Path, progress: Progress
) -> tuple[list[RenderedPrompt], Renderer]:
    """The problems as the model is asked them, by its own tokenizer and template; whatever can be
    wrong with files, graders or lengths shows here."""
    check_graders(settings.evaluate)
    renderer = Renderer(load_tokenizer(model), settings.template, model)
    context, prompts = load_sizes(model)[1], []
    for benchmark in settings.evaluate.benchmarks:
        found = read_problems(benchmark)
        for prompt in render_all(renderer, found, BENCHMARK + benchmark.name, progress):
            check_length(prompt, benchmark.max_new_tokens, context)
            prompts.append(prompt)
    return prompts, renderer


def _evaluate(
    settings: Evaluation,
    model: Path,
    intent: Intent,
    folder: Path,
    prompts: list[RenderedPrompt],
    renderer: Renderer,
    progress: Progress,
) -> Record:
    """Sample and grade."""
    use_threads(settings.execution)
    rendered = write_prompt_set(folder / PROBLEMS, prompts)
    sampler = Sampler(
        model,
        load_sizes(model)[0],
        renderer.stop_ids,
        settings.seed,
        settings.execution,
        intent.digest,
        "evaluate",
        progress,
    )
    scores, counts, seconds = answer_benchmarks(
        sampler, settings.evaluate, {p.id: p for p in prompts}, folder, tokenizer=model
    )
    write_json(folder / SCORES, scores)
    return Record(intent, fingerprint(scores), {**counts, "problems": rendered}, seconds)
