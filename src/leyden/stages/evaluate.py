"""Stage 6: a model answers the benchmarks, and its distance to the teacher is measured."""

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from leyden.data.prompt_set import BENCHMARK, HELDOUT, RenderedPrompt
from leyden.data.scored import sequence_of
from leyden.engines.base import Role
from leyden.evals.divergence import measure_divergence
from leyden.evals.graded import Graded, not_asked, result_of, with_room, write_grades
from leyden.evals.grading import grade_completions
from leyden.evals.meanwhile import Questions, grading_meanwhile
from leyden.evals.problems import labels_of
from leyden.evals.results import BenchmarkResult, Divergence, Results, write_results
from leyden.evals.verdict import NOT_GRADED
from leyden.inference.leader import Leader
from leyden.inference.sample import Sampler, Samples
from leyden.models.load import load_model
from leyden.models.vocabulary import load_tokenizer
from leyden.provenance.records import Intent, Record
from leyden.recipe.benchmarks import Benchmark, Evaluate
from leyden.recipe.sampling import Sampling
from leyden.run.artifacts import open_prompts, prompt_facts, tokenizer_folder
from leyden.run.fits import check_limits, check_vocabulary, shortest_context
from leyden.run.graph import Graph
from leyden.run.layout import DIVERGENCE, SAMPLES, grades_file
from leyden.run.run import TEACHER
from leyden.run.stage import PROBLEMS, Job


def run_evaluate(graph: Graph, intent: Intent) -> Record:
    """Make ``evaluate/MODEL``: samples, grades and results."""
    run, job = graph.run, Job.parse(intent.stage)
    model, settings, folder = job.name, run.recipe.evaluate, graph.folder(job)
    check_vocabulary(graph, model)
    problems = open_prompts(graph, PROBLEMS) if settings.benchmarks else {}
    check_limits(run, problems.values(), vocab_size=prompt_facts(graph).vocab_size)
    sampler = Sampler.of_run(graph, intent, role_of(model), model, shortest_context(run))
    with closing(sampler.engine):
        measured = evaluate_benchmarks(
            sampler, settings, problems, folder, load_tokenizer(tokenizer_folder(graph))
        )
    results, seconds = Results(measured.results), measured.seconds
    if settings.kl_prompts and model != TEACHER:
        divergence, took = _diverge(graph, intent, model, folder / DIVERGENCE)
        results, seconds = replace(results, divergence=divergence), seconds + took
    write_results(folder, results)
    return Record(intent, results.fingerprint, measured.counts, seconds)


def help_evaluate(graph: Graph, intent: Intent, leader: Leader) -> None:
    """Sample units of the stores of an evaluation that another process leads. It grades."""
    run, job = graph.run, Job.parse(intent.stage)
    model, settings, folder = job.name, run.recipe.evaluate, graph.folder(job)
    problems = open_prompts(graph, PROBLEMS) if settings.benchmarks else {}
    sampler = Sampler.of_run(graph, intent, role_of(model), model, shortest_context(run))
    with closing(sampler.engine):
        for benchmark in settings.benchmarks:
            sampler.help(
                folder / SAMPLES / benchmark.name,
                with_room(_asked(problems, benchmark), sampler.context),
                benchmark,
                purpose=_purpose(benchmark),
                leader=leader,
            )
    if settings.kl_prompts and model != TEACHER:
        _held_out(graph, model, folder / DIVERGENCE).help(graph, intent, leader)


def _asked(problems: Mapping[str, RenderedPrompt], benchmark: Benchmark) -> list[RenderedPrompt]:
    return [p for p in problems.values() if p.split == BENCHMARK + benchmark.name]


def _purpose(benchmark: Benchmark) -> str:
    return f"evaluate/{benchmark.name}"


def _held_out(graph: Graph, model: str, folder: Path) -> Samples:
    """Fresh completions of held-out prompts, at temperature 1."""
    settings = graph.run.recipe.evaluate
    return Samples(
        role_of(model),
        model,
        Sampling(max_new_tokens=settings.kl_max_new_tokens),
        [HELDOUT],
        folder,
        limit=settings.kl_prompts,
        purpose="evaluate/divergence",
    )


def role_of(model: str) -> Role:
    """The role in which an evaluated model is sampled. All models but the teacher are students."""
    return "teacher" if model == TEACHER else "student"


@dataclass(frozen=True)
class Measured:
    """A model's results by benchmark, the rows and tokens that it sampled, and device-seconds."""

    results: dict[str, BenchmarkResult]
    rows: int
    tokens: int
    seconds: float

    @property
    def counts(self) -> dict[str, Any]:
        missing = sum(result.not_graded for result in self.results.values())
        counts = {"rows": self.rows, "tokens": self.tokens}
        return counts | ({NOT_GRADED: missing} if missing else {})


def evaluate_benchmarks(
    sampler: Sampler,
    settings: Evaluate,
    problems: Mapping[str, RenderedPrompt],
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
) -> Measured:
    """Sample and grade every benchmark into ``folder``."""
    results, rows, tokens, seconds = {}, 0, 0, 0.0
    for benchmark in settings.benchmarks:
        asked, place = _asked(problems, benchmark), folder / SAMPLES / benchmark.name
        questions = Questions(problems, tokenizer)
        with grading_meanwhile(place, questions, benchmark, settings):
            store, took = sampler.fill(
                place, with_room(asked, sampler.context), benchmark, purpose=_purpose(benchmark)
            )
        requests = [questions.request(row) for row in store]
        path = grades_file(folder, benchmark.name)
        with sampler.progress(f"{sampler.title}, grading", len(store), "completions") as advance:
            verdicts = grade_completions(requests, benchmark, settings, advance=advance)
        graded = [
            Graded(r.prompt_id, sample, r.problem, v, r.text)
            for r, sample, v in zip(requests, store.values("sample"), verdicts, strict=True)
        ]
        graded += not_asked(asked, sampler.context, benchmark.samples_per_prompt)
        write_grades(path, graded)
        labels = {prompt.id: labels_of(prompt.row) for prompt in asked}
        results[benchmark.name] = result_of(store, graded, labels, path)
        rows, tokens, seconds = rows + len(store), tokens + store.num_tokens, seconds + took
    return Measured(results, rows, tokens, seconds)


def _diverge(graph: Graph, intent: Intent, model: str, folder: Path) -> tuple[Divergence, float]:
    """Reverse KL to the teacher on fresh completions of held-out prompts, at temperature 1."""
    run, execution = graph.run, graph.run.recipe.execution
    store, seconds = _held_out(graph, model, folder).make(graph, intent)
    began = time.monotonic()
    with run.progress(f"{intent.stage}, divergence", len(store), "rows") as advance:
        divergence = measure_divergence(
            load_model(run.place(model), device=execution.device, dtype=execution.dtype),
            load_model(run.place(TEACHER), device=execution.device, dtype=execution.dtype),
            [sequence_of(row) for row in store],
            vocab_size=prompt_facts(graph).vocab_size,
            batch_tokens=execution.batch_tokens,
            chunk=execution.logprob_chunk_tokens,
            progress=advance,
        )
    seconds += time.monotonic() - began
    return replace(divergence, store=store.fingerprint), seconds
