"""Stage 6: one model answers the benchmarks, and its distance to the teacher is measured."""

import json
import time
from dataclasses import asdict
from typing import Any

from leyden.artifacts import open_prompts, tokenizer_folder, vocab_size
from leyden.asking import Sampling
from leyden.benchmark import Benchmark
from leyden.data.prompt_set import RenderedPrompt
from leyden.data.render import load_tokenizer
from leyden.data.scores import sequence_of
from leyden.engines.sample_store import sample_store
from leyden.evals.divergence import measure_divergence
from leyden.evals.graders import apply_grader, load_grader
from leyden.evals.statistics import accuracy_interval
from leyden.files import write_atomic, write_json
from leyden.identity import fingerprint, hash_file
from leyden.lineage import Intent, Record
from leyden.modeling import load_model
from leyden.run import BENCHMARK, PROBLEMS, Run
from leyden.store.reader import Row, Store
from leyden.vocabulary import check_vocabulary

SCORES, SAMPLES, GRADES = "scores.json", "samples", "grades"


def run_evaluate(run: Run, intent: Intent) -> Record:
    """Make ``evaluate/MODEL``: samples, grades and scores.json."""
    model, folder = intent.stage.partition("/")[2], run.folder(intent.stage)
    check_vocabulary(run, model)
    scores: dict[str, Any] = {"benchmarks": {}}
    rows = tokens = 0
    seconds = 0.0
    for benchmark in run.recipe.evaluate.benchmarks:
        store, took = sample_store(
            run,
            intent,
            run.place(model),
            benchmark,
            [BENCHMARK + benchmark.name],
            source=PROBLEMS,
            folder=folder / SAMPLES / benchmark.name,
            purpose=f"evaluate/{benchmark.name}",
        )
        scores["benchmarks"][benchmark.name] = _grade(run, intent, benchmark, store)
        rows, tokens, seconds = rows + len(store), tokens + store.num_tokens, seconds + took
    if run.recipe.evaluate.kl_prompts and model != "teacher":
        scores["divergence"], took = _diverge(run, intent, model)
        seconds += took
    write_json(folder / SCORES, scores)
    counts = {"rows": rows, "tokens": tokens}
    return Record(intent, fingerprint(scores), counts, seconds)


def _grade(run: Run, intent: Intent, benchmark: Benchmark, store: Store) -> dict[str, Any]:
    """Grade every sample, keep the verdicts, and sum them up."""
    grader, prompts = load_grader(benchmark.grader), open_prompts(run, PROBLEMS)
    tokenizer = load_tokenizer(tokenizer_folder(run))
    verdicts: dict[str, list[bool]] = {}
    lines = []
    with run.progress(f"{intent.stage}, grading", len(store), "rows") as advance:
        for row in store:
            prompt, text = prompts[row["prompt_id"]], completion_text(tokenizer, row)
            where = f"{benchmark.grader} on {prompt.id}"
            right = row["finish_reason"] == "stop" and apply_grader(
                grader, _problem(prompt), text, where=where
            )
            verdicts.setdefault(prompt.id, []).append(right)
            lines.append(
                {"prompt_id": prompt.id, "sample": row["sample"], "right": right, "text": text}
            )
            advance(1)
    path = run.folder(intent.stage) / GRADES / f"{benchmark.name}.jsonl"
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
    accuracy, interval = accuracy_interval(list(verdicts.values()))
    return {
        "accuracy": accuracy,
        "interval": list(interval),
        "problems": len(verdicts),
        "samples": len(store),
        "truncated": store.values("finish_reason").count("length"),
        "mean_tokens": store.num_tokens / len(store),
        "store": store.fingerprint,
        "grades": hash_file(path),
    }


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
