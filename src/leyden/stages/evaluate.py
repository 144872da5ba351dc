"""Stage 6: one model answers the benchmarks, and its distance to the teacher is measured."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leyden.data.prompt_set import RenderedPrompt
from leyden.data.scored import sequence_of
from leyden.evals.divergence import measure_divergence
from leyden.evals.grading import Answer, digest, grade_answers
from leyden.evals.results import SCORES
from leyden.evals.summary import summarise
from leyden.files import write_atomic, write_json
from leyden.inference.sample import Sampler, sample_store
from leyden.models.load import load_model
from leyden.models.vocabulary import load_tokenizer
from leyden.provenance.identity import fingerprint, hash_file
from leyden.provenance.records import Intent, Record
from leyden.recipe.benchmarks import Benchmark, Evaluate
from leyden.recipe.sampling import Sampling
from leyden.run.artifacts import open_prompts, tokenizer_folder, vocab_size
from leyden.run.fits import check_limits, check_vocabulary
from leyden.run.run import BENCHMARK, PROBLEMS, Run
from leyden.store.reader import Row, Store

SAMPLES, GRADES = "samples", "grades"


def run_evaluate(run: Run, intent: Intent) -> Record:
    """Make ``evaluate/MODEL``: samples, grades and scores.json."""
    model, folder = intent.stage.partition("/")[2], run.folder(intent.stage)
    check_vocabulary(run, model)
    settings = run.recipe.evaluate
    problems = open_prompts(run, PROBLEMS) if settings.benchmarks else {}
    check_limits(run, problems.values(), vocab_size=vocab_size(run))
    sampler = Sampler.of_run(run, intent, run.place(model))
    scores, counts, seconds = answer_benchmarks(
        sampler, settings, problems, folder, tokenizer=tokenizer_folder(run)
    )
    if settings.kl_prompts and model != "teacher":
        scores["divergence"], took = _diverge(run, intent, model)
        seconds += took
    write_json(folder / SCORES, scores)
    return Record(intent, fingerprint(scores), counts, seconds)


def answer_benchmarks(
    sampler: Sampler,
    settings: Evaluate,
    problems: Mapping[str, RenderedPrompt],
    folder: Path,
    *,
    tokenizer: Path,
) -> tuple[dict[str, Any], dict[str, int], float]:
    """Sample and grade every benchmark into ``folder``: (scores, counts, device-seconds)."""
    scores: dict[str, Any] = {"benchmarks": {}}
    rows = tokens = 0
    seconds = 0.0
    reader = load_tokenizer(tokenizer)
    for benchmark in settings.benchmarks:
        asked = [p for p in problems.values() if p.split == BENCHMARK + benchmark.name]
        store, took = sampler.fill(
            folder / SAMPLES / benchmark.name,
            asked,
            benchmark,
            purpose=f"evaluate/{benchmark.name}",
        )
        path = folder / GRADES / f"{benchmark.name}.jsonl"
        answers = _answers(store, problems, reader)
        with sampler.progress(f"{sampler.title}, grading", len(store), "answers") as advance:
            scores["benchmarks"][benchmark.name] = _grade(
                store, answers, benchmark, settings, path, advance
            )
        rows, tokens, seconds = rows + len(store), tokens + store.num_tokens, seconds + took
    return scores, {"rows": rows, "tokens": tokens}, seconds


def _answers(store: Store, problems: Mapping[str, RenderedPrompt], tokenizer) -> list[Answer]:
    return [
        Answer(
            row["prompt_id"],
            _problem(problems[row["prompt_id"]]),
            completion_text(tokenizer, row),
            row["finish_reason"] == "stop",
        )
        for row in store
    ]


def _grade(
    store: Store,
    answers: list[Answer],
    benchmark: Benchmark,
    settings: Evaluate,
    path: Path,
    advance: Callable[[int, str], None],
) -> dict[str, Any]:
    """Grade every sample, keep the verdicts in ``path``, and sum them up."""
    verdicts = grade_answers(answers, benchmark, settings, advance=advance)
    lines = (
        {"prompt_id": a.prompt_id, "sample": sample, **asdict(verdict), "text": a.text}
        for a, sample, verdict in zip(answers, store.values("sample"), verdicts, strict=True)
    )
    write_atomic(path, _json_lines(lines))
    by_problem: dict[str, list] = {}
    for answer, verdict in zip(answers, verdicts, strict=True):
        by_problem.setdefault(answer.prompt_id, []).append(verdict)
    asked = {answer.prompt_id: answer.problem for answer in answers}
    return {
        **summarise(by_problem),
        "questions": {name: digest(problem)[:8] for name, problem in asked.items()},
        "mean_tokens": store.num_tokens / len(store),
        "store": store.fingerprint,
        "grades": hash_file(path),
    }


def _json_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _problem(prompt: RenderedPrompt) -> dict[str, Any]:
    """What a grader is given: the prompt file's row with ``prompt`` and perhaps ``answer``."""
    answer = {} if prompt.answer is None else {"answer": prompt.answer}
    return {**prompt.row, "prompt": prompt.text, **answer}


def completion_text(tokenizer, row: Row) -> str:
    """The completion's text without its stop token."""
    ids = row["completion_ids"].tolist()
    ended = row["finish_reason"] == "stop"
    return tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=False)


def _diverge(run: Run, intent: Intent, model: str) -> tuple[dict[str, Any], float]:
    """Reverse KL to the teacher on fresh completions of held-out prompts, at temperature 1."""
    settings, execution = run.recipe.evaluate, run.recipe.execution
    sampling = Sampling(max_new_tokens=settings.kl_max_new_tokens)
    store, seconds = sample_store(
        run,
        intent,
        run.place(model),
        sampling,
        ["heldout"],
        folder=run.folder(intent.stage) / "divergence",
        limit=settings.kl_prompts,
        purpose="evaluate/divergence",
    )
    began = time.monotonic()
    with run.progress(f"{intent.stage}, divergence", len(store), "rows") as advance:
        found = measure_divergence(
            load_model(run.place(model), device=execution.device, dtype=execution.dtype),
            load_model(run.place("teacher"), device=execution.device, dtype=execution.dtype),
            [sequence_of(row) for row in store],
            vocab_size=vocab_size(run),
            batch_tokens=execution.batch_tokens,
            chunk=execution.logprob_chunk_tokens,
            progress=advance,
        )
    return asdict(found) | {"store": store.fingerprint}, seconds + time.monotonic() - began
