"""Evaluation at length: problems over the context, grading beside sampling, kept evaluations."""

import json
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pytest
from test_evaluate import PLAIN

from conftest import MODELS, write_small_recipe
from leyden.cli.main import run as command
from leyden.evals import meanwhile
from leyden.evals.cache import VerdictCache
from leyden.evals.meanwhile import Questions, grading_meanwhile
from leyden.evals.results import read_results
from leyden.evals.verdict import RIGHT
from leyden.inference.sample import Sampler
from leyden.models.vocabulary import load_tokenizer
from leyden.pipeline import kept as kept_module
from leyden.pipeline import pipeline
from leyden.pipeline.pipeline import run_recipe
from leyden.pipeline.verify import verify_run
from leyden.recipe.toml import load_recipe, parse_overrides
from leyden.run.artifacts import open_prompts
from leyden.run.graph import resolve
from leyden.run.run import Run
from leyden.run.stage import TEACH, evaluate
from leyden.store.claim import committed_names
from leyden.store.reader import open_store
from leyden.telemetry.progress import Advance
from table_engine import TableEngine

CONTEXT = 256  # of the tiny models
LONG, TIGHT, SHORT = "1+" * 140 + "1=", "1+" * 120 + "1=", "1+2="


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "sums.jsonl"
    rows = [{"id": name, "prompt": text, "answer": 3} for name, text in
            (("long", LONG), ("tight", TIGHT), ("short", SHORT))]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_problem_over_the_context_is_its_own_outcome(problems, tmp_path, caplog):
    out = tmp_path / "ev"
    arguments = ["--benchmarks", str(problems), "--samples", "2", "--max-new-tokens", "64"]
    assert command(["evaluate", str(MODELS / "base"), *arguments, "--out", str(out), *PLAIN]) == 0
    assert "2 of 3 problems leave less room than max_new_tokens = 64" in caplog.text
    (result,) = read_results(out).benchmarks.values()
    assert (result.problems, result.samples) == (3, 6)
    by_problem = {name.rpartition("/")[2]: letters for name, letters in result.outcomes.items()}
    assert by_problem["long"] == "tt"
    store = open_store(out / "samples/sums")
    longest = {row["prompt_id"].rpartition("/")[2]: 0 for row in store}
    assert set(longest) == {"tight", "short"}
    for row in store:
        assert len(row["prompt_ids"]) + len(row["completion_ids"]) <= CONTEXT
    lines = [json.loads(line) for line in (out / "grades/sums.jsonl").read_text().splitlines()]
    why = {line["why"] for line in lines if line["prompt_id"].endswith("long")}
    assert why == {f"its prompt of {len(LONG)} tokens leaves no room in a context of {CONTEXT}"}


def test_a_cap_that_no_problem_has_room_for_is_refused(problems, tmp_path, capsys):
    arguments = ["--benchmarks", str(problems), "--max-new-tokens", "5000", *PLAIN]
    assert command(["evaluate", str(MODELS / "base"), *arguments]) == 1
    assert "with max_new_tokens = 5000 it exceeds" in capsys.readouterr().err


def run_of(folder, *flags: str, **fields) -> Run:
    recipe = load_recipe(write_small_recipe(folder), parse_overrides(list(flags)))
    return Run(folder / "run", recipe, **fields)


def test_fewer_samples_are_one_setting(tmp_path):
    benchmarks = ["--evaluate.samples", "2"]
    recipe = load_recipe(write_small_recipe(tmp_path), parse_overrides(benchmarks))
    (one,) = recipe.evaluate.benchmarks
    assert one.samples_per_prompt == 1  # at most; it had one
    path = tmp_path / "small.toml"
    path.write_text(
        path.read_text().replace("top_p = 1.0\n", "top_p = 1.0\nsamples_per_prompt = 9\n")
    )
    (many,) = load_recipe(path).evaluate.benchmarks
    (few,) = load_recipe(path, parse_overrides(benchmarks)).evaluate.benchmarks
    assert (many.samples_per_prompt, few.samples_per_prompt) == (9, 2)
    assert few.identity() | {"samples_per_prompt": 9} == many.identity()


def test_the_evaluation_of_a_model_is_kept_for_other_runs(tmp_path, monkeypatch):
    kept = ["--evaluate.keep", str(tmp_path / "kept"), "--distill.arms", "{a = {steps = 1}}"]
    first = run_of(tmp_path / "first", *kept)
    run_recipe(first)
    second = run_of(tmp_path / "second", *kept, "--distill.arms", "{b = {steps = 2}}")
    made, real = [], pipeline.call_stage
    monkeypatch.setattr(
        pipeline,
        "call_stage",
        lambda graph, intent: made.append(intent.stage) or real(graph, intent),
    )
    run_recipe(second)
    assert [job for job in made if job.startswith("evaluate")] == ["evaluate/b"]
    for model in ("teacher", "base", "reference"):
        ours, theirs = second.folder(evaluate(model)), first.folder(evaluate(model))
        assert read_results(ours) == read_results(theirs)
        record = resolve(second).record(evaluate(model))
        assert record is not None and record.device_seconds == 0
        assert record.environment["kept_from"].startswith(str(tmp_path / "kept"))
    # Another dtype gives other numbers, so its evaluations are its own.
    third = run_of(tmp_path / "third", *kept, "--execution.dtype", "bfloat16")
    made.clear()
    run_recipe(third)
    assert "evaluate/teacher" in made


def test_a_kept_evaluation_that_is_damaged_is_not_used(tmp_path, caplog):
    kept = ["--evaluate.keep", str(tmp_path / "kept"), "--distill.arms", "{a = {steps = 1}}"]
    first = run_of(tmp_path / "first", *kept)
    run_recipe(first, until="evaluate/teacher")
    (place,) = (tmp_path / "kept").iterdir()
    shard = next(place.glob("samples/*/shards/*"))
    shard.unlink()  # a link to the run's own file
    shard.write_bytes(b"damaged")
    second = run_of(tmp_path / "second", *kept)
    run_recipe(second, until="evaluate/teacher")
    assert "is not used" in caplog.text
    record = resolve(second).record(evaluate("teacher"))
    assert record is not None and "kept_from" not in record.environment
    assert list(verify_run(second))


def test_a_copy_of_a_kept_evaluation_that_was_interrupted_is_finished(tmp_path, monkeypatch):
    kept = ["--evaluate.keep", str(tmp_path / "kept"), "--distill.arms", "{a = {steps = 1}}"]
    first = run_of(tmp_path / "first", *kept)
    run_recipe(first, until="evaluate/teacher")
    second = run_of(tmp_path / "second", *kept)
    real, count = kept_module._linked, []

    def killed(source: str, target: str) -> None:
        count.append(target)
        if len(count) == 5:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(kept_module, "_linked", killed)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(second, until="evaluate/teacher")
    run_recipe(second, until="evaluate/teacher")
    record = resolve(second).record(evaluate("teacher"))
    assert record is not None and "kept_from" in record.environment
    assert not (second.folder(evaluate("teacher")) / ".kept").exists()


def test_a_folder_that_cannot_keep_is_no_failure_of_the_run(tmp_path, caplog):
    (tmp_path / "kept").write_text("a file")
    run = run_of(tmp_path / "run", "--evaluate.keep", str(tmp_path / "kept"))
    run_recipe(run, until="evaluate/teacher")
    assert "the evaluation is not kept" in caplog.text


class Slow(TableEngine):
    """Waits between its results."""

    def generate(self, requests, sampling, stop_ids):
        for result in super().generate(requests, sampling, stop_ids):
            time.sleep(0.05)
            yield result


def test_completions_are_graded_while_others_are_sampled(tmp_path, monkeypatch):
    run = run_of(tmp_path, open_engine=TableEngine)
    run_recipe(run, until="teach")
    monkeypatch.setattr(meanwhile, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(meanwhile, "completion_text", lambda tokenizer, row: str(row["sample"]))
    graph = resolve(run)
    prompts = list(open_prompts(graph).values())
    rows = {p.id: p for p in prompts}
    for prompt in prompts:
        prompt.row["answer"] = "0"
    (benchmark,) = run.recipe.evaluate.benchmarks
    benchmark = benchmark.model_copy(update={"grader": "math", "max_new_tokens": 200})
    seen = []

    def look(amount: int, note: str = "") -> None:
        cache = VerdictCache()
        if cache.connection is not None:
            count = "SELECT COUNT(*) FROM verdicts"
            seen.append(cache.connection.execute(count).fetchone()[0])
        cache.close()

    def progress(name: str, total: int, unit: str) -> AbstractContextManager[Advance]:
        return nullcontext(look)

    intent = graph.begun(TEACH)
    assert intent is not None
    sampler = Sampler.of_run(graph, intent, "student", "base")
    sampler = replace(sampler, engine=Slow(sampler.spec), progress=progress, rows_per_unit=4)
    place = tmp_path / "store"
    with grading_meanwhile(
        place, Questions(rows, load_tokenizer(MODELS / "base")), benchmark, run.recipe.evaluate
    ):
        sampler.fill(place, prompts[:40], benchmark, purpose="test")
    assert len(committed_names(place)) == 10
    assert max(seen[:-1]) > 0, "nothing was graded before the last sample came"
    cache = VerdictCache()
    assert cache.connection is not None
    verdicts = cache.connection.execute("SELECT verdict FROM verdicts").fetchall()
    assert {json.loads(text)["outcome"] for (text,) in verdicts} == {RIGHT}
