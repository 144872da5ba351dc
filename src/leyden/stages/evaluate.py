"""Stage 6: a model answers the benchmarks, and its distance to the teacher is measured."""

import json
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from leyden.data.prompt_set import BENCHMARK, HELDOUT, RenderedPrompt
from leyden.data.scored import sequence_of
from leyden.engines.base import Role
from leyden.evals.divergence import measure_divergence
from leyden.evals.grading import digest, grade_completions
from leyden.evals.meanwhile import Questions, grading_meanwhile
from leyden.evals.problems import labels_of, problem_of
from leyden.evals.results import BenchmarkResult, Divergence, Results, write_results
from leyden.evals.summary import summarise
from leyden.evals.verdict import NOT_GRADED, TRUNCATED, Grade, Verdict
from leyden.files import write_atomic
from leyden.inference.leader import Leader
from leyden.inference.sample import Sampler, Samples
from leyden.models.load import load_model
from leyden.models.vocabulary import load_tokenizer
from leyden.provenance.identity import hash_file
from leyden.provenance.records import Intent, Record
from leyden.recipe.benchmarks import Benchmark, Evaluate
from leyden.recipe.sampling import Sampling
from leyden.run.artifacts import open_prompts, prompt_facts, tokenizer_folder
from leyden.run.fits import check_limits, check_vocabulary, shortest_context
from leyden.run.graph import Graph
from leyden.run.layout import DIVERGENCE, SAMPLES, grades_file
from leyden.run.run import TEACHER
from leyden.run.stage import PROBLEMS, Job
from leyden.store.reader import Store


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
                with_room(sampler, _asked(problems, benchmark)),
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
                place, with_room(sampler, asked), benchmark, purpose=_purpose(benchmark)
            )
        requests = [questions.request(row) for row in store]
        path = grades_file(folder, benchmark.name)
        with sampler.progress(f"{sampler.title}, grading", len(store), "completions") as advance:
            verdicts = grade_completions(requests, benchmark, settings, advance=advance)
        graded = [
            Graded(r.prompt_id, sample, r.problem, v, r.text)
            for r, sample, v in zip(requests, store.values("sample"), verdicts, strict=True)
        ]
        graded += _not_asked(sampler, asked, benchmark)
        _write_grades(path, graded)
        labels = {prompt.id: labels_of(prompt.row) for prompt in asked}
        results[benchmark.name] = _result(store, graded, labels, path)
        rows, tokens, seconds = rows + len(store), tokens + store.num_tokens, seconds + took
    return Measured(results, rows, tokens, seconds)


@dataclass(frozen=True)
class Graded:
    """A sample of a problem with its verdict. ``text`` is empty where it was never asked."""

    prompt_id: str
    sample: int
    problem: dict[str, Any]
    verdict: Verdict
    text: str = ""


def with_room(sampler: Sampler, problems: list[RenderedPrompt]) -> list[RenderedPrompt]:
    """The problems after which the context has room for a token."""
    context = sampler.context
    return [p for p in problems if context is None or len(p.ids) < context]


def _not_asked(
    sampler: Sampler, problems: list[RenderedPrompt], benchmark: Benchmark
) -> list[Graded]:
    """The other problems: there is no room for their answers, which is what becomes of them."""
    asked = {p.id for p in with_room(sampler, problems)}
    return [
        Graded(p.id, sample, problem_of(p), Verdict(TRUNCATED, why=_no_room(p, sampler.context)))
        for p in problems
        if p.id not in asked
        for sample in range(benchmark.samples_per_prompt)
    ]


def _no_room(problem: RenderedPrompt, context: int | None) -> str:
    return f"its prompt of {len(problem.ids)} tokens leaves no room in a context of {context}"


def _write_grades(path: Path, graded: list[Graded]) -> None:
    grades = (Grade.of(g.prompt_id, g.sample, g.verdict, g.text) for g in graded)
    write_atomic(path, "".join(json.dumps(asdict(grade)) + "\n" for grade in grades).encode())


def _result(
    store: Store, graded: list[Graded], labels: Mapping[str, Mapping[str, str]], grades: Path
) -> BenchmarkResult:
    by_problem: dict[str, list[Verdict]] = {}
    for one in graded:
        by_problem.setdefault(one.prompt_id, []).append(one.verdict)
    asked = {one.prompt_id: one.problem for one in graded}
    return BenchmarkResult(
        **vars(summarise(by_problem, labels)),
        questions={name: digest(problem)[:8] for name, problem in asked.items()},
        mean_tokens=store.num_tokens / len(store),
        store=store.fingerprint,
        grades=hash_file(grades),
    )


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
