"""`leyden evaluate MODEL` from the command line, and the benchmarks of a run."""

import json
import re
import shutil
import time
from dataclasses import replace

import pytest

from conftest import MODELS, ROOT, needs_bubblewrap, record_of, write_small_recipe
from leyden.cli.main import run
from leyden.evals import grade_workers
from leyden.evals.results import read_results
from leyden.provenance.identity import fingerprint
from leyden.provenance.records import write_record
from leyden.recipe.benchmarks import Evaluate
from leyden.report.benchmarks import collect_benchmarks
from leyden.sandbox.client import Ended, Sandbox
from leyden.store.reader import open_store
from processes import Leyden

PLAIN = ["--template.kind", "plain", "--execution.threads", "1", "--execution.device", "cpu"]
PROMPTS = ROOT / "examples" / "tiny" / "prompts"


@pytest.fixture
def sums(tmp_path):
    """The demo's sums as a benchmark for math-verify: the answer is the last running total."""
    lines = (PROMPTS / "test.jsonl").read_text().splitlines()[:24]
    rows = [json.loads(line) for line in lines]
    for row in rows:
        row["answer"] = sum(map(int, row["prompt"].rstrip("=").split("+"))) % 10
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def evaluate(model, *arguments) -> int:
    return run(["evaluate", str(model), *map(str, arguments), *PLAIN])


def test_a_model_folder_is_evaluated_alone(sums, tmp_path, capsys):
    out = tmp_path / "ev"
    command = ["--benchmarks", sums, "--samples", 4, "--max-new-tokens", 64, "--out", out]
    assert evaluate(MODELS / "teacher", *command) == 0
    shown = capsys.readouterr().out
    assert "sums" in shown
    assert "report.html" in shown
    scores = json.loads((out / "results.json").read_text())["benchmarks"]["sums"]
    assert (scores["problems"], scores["samples"], scores["samples_per_problem"]) == (24, 96, 4)
    assert sum(scores[o] for o in ("right", "wrong", "unparsed", "truncated")) == 96
    assert (
        scores["pass_at"]["4"][0] >= scores["pass_at"]["1"][0] == pytest.approx(scores["accuracy"])
    )
    store = open_store(out / "samples" / "sums")
    assert len(store) == 96
    grades = [json.loads(s) for s in (out / "grades" / "sums.jsonl").read_text().splitlines()]
    assert len(grades) == 96
    assert all(grade["why"] for grade in grades)
    record = record_of(out)
    assert record.intent.models["model"].digest
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.json*")}
    assert evaluate(MODELS / "teacher", *command) == 0  # found, not made again
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.json*")} == before


def test_another_setting_in_the_same_folder_is_refused(sums, tmp_path, capsys):
    command = ["--benchmarks", sums, "--max-new-tokens", 32, "--limit", 4, "--out", tmp_path / "ev"]
    assert evaluate(MODELS / "base", *command) == 0
    assert evaluate(MODELS / "base", *command, "--temperature", 0.7) == 1
    message = capsys.readouterr().err
    assert "temperature" in message and "give a new folder with --out" in message
    assert evaluate(MODELS / "teacher", *command) == 1
    assert "weights" in capsys.readouterr().err
    sums.write_text(sums.read_text().replace('"answer": 1', '"answer": 2', 1))
    assert evaluate(MODELS / "base", *command) == 1
    assert "problems of sums" in capsys.readouterr().err


def test_an_evaluation_is_not_finished_in_another_dtype(sums, tmp_path, capsys):
    command = ["--benchmarks", sums, "--max-new-tokens", 32, "--limit", 4, "--out", tmp_path / "ev"]
    command += ["--execution.rows-per-unit", 2]
    assert evaluate(MODELS / "base", *command) == 0
    before = record_of(tmp_path / "ev").fingerprint
    for name in ("record.json", "samples/sums/SEALED.json", "samples/sums/commits/000001.json"):
        (tmp_path / "ev" / name).unlink()
    assert evaluate(MODELS / "base", *command, "--execution.dtype", "bfloat16") == 1
    assert "begun with execution.dtype = 'float32' for the student" in capsys.readouterr().err
    assert evaluate(MODELS / "base", *command) == 0
    assert record_of(tmp_path / "ev").fingerprint == before


@needs_bubblewrap
def test_the_same_command_grades_again_what_the_machine_kept_from_it(tmp_path, capsys, monkeypatch):
    """A neighbour takes the memory; the samples stay, and the second start grades the rest."""
    rows = tmp_path / "code.jsonl"
    row = {"prompt": "1+2=", "tests": ["assert 1 + 1 == 2"]}
    rows.write_text("".join(json.dumps(row | {"prompt": f"{i}+2="}) + "\n" for i in range(3)))
    monkeypatch.setattr(grade_workers, "wait_for_memory", lambda: None)
    monkeypatch.setattr("leyden.evals.meanwhile.completion_text", lambda tokenizer, row: "pass")
    command = ["--benchmarks", rows, "--max-new-tokens", 24, "--samples", 1]
    command += ["--out", tmp_path / "ev"]
    grade_workers.code_backend(Evaluate())  # tests itself while there is memory
    with monkeypatch.context() as full:
        full.setattr(Sandbox, "run", lambda self, job, limits: Ended("machine"))
        assert evaluate(MODELS / "base", *command) == 0
    shown = " ".join(capsys.readouterr().out.split())
    (result,) = read_results(tmp_path / "ev").benchmarks.values()
    finished = result.samples - result.truncated
    assert result.not_graded == finished > 0
    assert f"{finished} of 3 samples were not graded" in shown
    assert "not graded" in (tmp_path / "ev/report.html").read_text()
    store = result.store
    assert evaluate(MODELS / "base", *command) == 0
    (result,) = read_results(tmp_path / "ev").benchmarks.values()
    assert (result.not_graded, result.right, result.store) == (0, finished, store)
    assert "not graded" not in capsys.readouterr().out


def test_a_run_grades_again_what_the_machine_kept_from_it(copied, capsys):
    """The job is done again, and nothing else is."""
    folder = copied / "run/evaluate/tail"
    record = record_of(folder)
    write_record(folder, replace(record, counts=record.counts | {"not_graded": 2}))
    command = ["run", str(copied / "small.toml"), "--out", str(copied / "run")]
    assert run([*command, "--dry-run"]) == 0
    assert re.findall(r"(\S+) +do: ", capsys.readouterr().out) == ["evaluate/tail"]
    assert run(command) == 0
    assert record_of(folder).counts == record.counts
    assert record_of(folder).fingerprint == record.fingerprint


def test_a_date_in_the_template_gives_one_evaluation_one_prompt(sums, tmp_path, caplog):
    model = tmp_path / "model"
    shutil.copytree(MODELS / "base", model)
    clock = "{{ strftime_now('%f') }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (model / "chat_template.jinja").write_text(clock)
    out = tmp_path / "ev"
    command = ["evaluate", model, "--benchmarks", sums, "--max-new-tokens", 8, "--limit", 4]
    command += ["--out", out, "--execution.rows-per-unit", 2, "--execution.device", "cpu"]
    assert run([*map(str, command)]) == 0
    first = (out / "problems/rendered.jsonl").read_bytes()
    for name in ("record.json", "samples/sums/SEALED.json", "samples/sums/commits/000001.json"):
        (out / name).unlink()
    assert run([*map(str, command)]) == 0
    assert "going on with the prompts of then" in caplog.text
    assert (out / "problems/rendered.jsonl").read_bytes() == first
    asked = {values["id"]: values["ids"] for values in map(json.loads, first.splitlines())}
    for row in open_store(out / "samples/sums"):
        assert row["prompt_ids"].tolist() == asked[row["prompt_id"]]


REFUSED = [
    ([], "no benchmark given"),
    (["--benchmarks", "gsm9k"], "gsm9k: neither a known benchmark nor a file"),
    (["--benchmarks", "aime24=nowhere.jsonl"], "nowhere.jsonl: cannot read prompts"),
    (["--benchmarks", "SUMS", "--samples", "0"], "samples_per_prompt = 0 is not valid"),
    (["--benchmarks", "SUMS", "--max-new-tokens", "99999"], "exceeds the models' context"),
    (["--benchmarks", "SUMS", "--evaluate.grader", "x"], "unknown key evaluate.grader"),
    (["--benchmarks", "SUMS", "SUMS"], "benchmark names must differ"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_cannot_be_evaluated_is_refused_in_a_sentence(
    arguments, message, sums, tmp_path, capsys
):
    arguments = [str(sums) if a == "SUMS" else a for a in arguments]
    assert evaluate(MODELS / "base", *arguments, "--out", tmp_path / "ev") == 1
    error = capsys.readouterr().err
    assert message in error
    assert "hint:" in error and "Traceback" not in error
    assert not (tmp_path / "ev").exists()


def test_no_such_model(sums, capsys):
    assert evaluate("./nowhere", "--benchmarks", sums) == 1
    assert "no such model folder" in capsys.readouterr().err


def test_a_run_is_not_a_model(finished, sums, capsys):
    assert run(["evaluate", str(finished / "run"), "--benchmarks", str(sums)]) == 1
    assert "is a run, whose recipe says what is evaluated" in capsys.readouterr().err
    assert run(["evaluate", str(finished / "run")]) == 0


def test_killed_while_sampling_or_grading_the_result_is_the_same(sums, tmp_path):
    arguments = ["--benchmarks", str(sums), "--samples", "8", "--max-new-tokens", "64", *PLAIN]
    arguments += ["--execution.rows-per-unit", "16"]
    command = ["evaluate", str(MODELS / "teacher"), *arguments]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run([*command, "--out", str(whole)]) == 0
    for count in (2, 5, 9, 12):
        process = Leyden([*command, "--out", broken], tmp_path / "log")
        commits = broken / "samples" / "sums" / "commits"
        while process.running() and len(list(commits.glob("*.json"))) < count:
            time.sleep(0.002)
        process.kill()
    assert run([*command, "--out", str(broken)]) == 0
    for name in ("results.json", "grades/sums.jsonl", "samples/sums/SEALED.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


def test_two_models_are_compared_over_the_same_problems(sums, tmp_path, capsys):
    for name in ("teacher", "base"):
        out = tmp_path / name
        command = ["--benchmarks", sums, "--samples", 2, "--max-new-tokens", 64, "--out", out]
        assert evaluate(MODELS / name, *command) == 0
    capsys.readouterr()
    folders = [str(tmp_path / "teacher"), str(tmp_path / "base")]
    assert run(["compare", *folders, "--json"]) == 0
    computed = json.loads(capsys.readouterr().out)["sums"]
    value, low, high = computed["difference"]
    assert value == pytest.approx(computed["first"] - computed["second"])
    assert low <= value <= high
    assert run(["compare", *folders]) == 0
    assert "teacher minus" in capsys.readouterr().out.replace("\n", "")
    assert run(["report", *folders, "--out", str(tmp_path / "two.html")]) == 0
    html = (tmp_path / "two.html").read_text()
    assert "minus teacher, paired" in html
    assert run(["compare", folders[0], str(tmp_path)]) == 1


def test_what_is_not_the_same_problems_is_not_compared(sums, tmp_path, capsys):
    """The file was edited between the evaluations, so eight of its problems are different ones."""
    command = ["--benchmarks", sums, "--max-new-tokens", 32]
    assert evaluate(MODELS / "base", *command, "--out", tmp_path / "a") == 0
    rows = [json.loads(line) for line in sums.read_text().splitlines()]
    for row in rows[:8]:
        row["answer"] += 1
    sums.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert evaluate(MODELS / "base", *command, "--out", tmp_path / "b") == 0
    capsys.readouterr()
    assert run(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sums"]["problems"] == 16
    for row in rows:
        row["prompt"] = "1+" + row["prompt"]
    sums.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert evaluate(MODELS / "base", *command, "--out", tmp_path / "c") == 0
    assert run(["compare", str(tmp_path / "a"), str(tmp_path / "c")]) == 1
    assert "sums is not the same problems in both" in capsys.readouterr().err


def test_a_start_that_failed_leaves_the_folder_free(sums, tmp_path):
    command = ["--benchmarks", sums, "--limit", 4, "--out", tmp_path / "ev"]
    assert evaluate(MODELS / "base", *command, "--max-new-tokens", 99999) == 1
    assert evaluate(MODELS / "base", *command, "--max-new-tokens", 32) == 0


def test_the_models_of_a_run_can_be_compared(finished, capsys):
    folders = [str(finished / "run/evaluate" / model) for model in ("tail", "base")]
    assert run(["compare", *folders, "--json"]) == 0
    assert "sums" in json.loads(capsys.readouterr().out)


def test_scores_of_an_older_version_are_refused_in_a_sentence(copied, capsys):
    """Older versions did not keep the outcome of every problem, which comparisons need."""
    folder = copied / "run" / "evaluate" / "base"
    scores = json.loads((folder / "results.json").read_text())
    del scores["benchmarks"]["sums"]["questions"]
    (folder / "results.json").write_text(json.dumps(scores))
    write_record(folder, replace(record_of(folder), fingerprint=fingerprint(scores)))
    for command in ("status", "report"):
        assert run([command, str(copied / "run")]) == 1
        error = capsys.readouterr().err
        assert "benchmarks.sums.questions: another version of leyden" in error
        assert "--redo evaluate" in error


def test_the_page_holds_every_answer_with_its_grade_and_why(finished):
    html = (finished / "run" / "report.html").read_text()
    for model in ("teacher", "base", "reference", "tail"):
        lines = (finished / f"run/evaluate/{model}/grades/sums.jsonl").read_text().splitlines()
        for grade in map(json.loads, lines):
            assert grade["text"].replace(">", "&gt;") in html
    assert html.count('class="answer"') == 7 * 8
    assert html.count('<path class="o-') >= 7


def test_long_answers_are_cut_in_the_middle_and_the_page_says_where_the_whole_is(
    finished, monkeypatch
):
    from leyden.report import benchmarks

    monkeypatch.setattr(benchmarks, "BUDGET", 50)
    monkeypatch.setattr(benchmarks, "SHORTEST", 4)
    folder = finished / "run" / "evaluate" / "base"
    (section,) = collect_benchmarks([benchmarks.Evaluated("base", folder)], {}, against="x")
    completions = [made for one in section.questions for made in one.answers["base"]]
    assert [made.line for made in completions] == list(range(1, 9))
    assert all("characters ..." in made.text for made in completions if not made.whole)
    assert not all(made.whole for made in completions)


def test_a_recipe_that_trains_on_what_it_evaluates_is_warned_of(tmp_path, capsys):
    """The OPD prompts are the problems: the run, status and the page warn of it."""
    recipe = write_small_recipe(tmp_path)
    text = recipe.read_text()
    marked = 'problems = {{ file = "{}"'.format
    recipe.write_text(text.replace(marked(PROMPTS / "test.jsonl"), marked(PROMPTS / "opd.jsonl")))
    out = str(tmp_path / "r")
    assert run(["run", str(recipe), "--out", out, "--until", "problems"]) == 0
    assert run(["status", out]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "warning: the benchmark sums is trained on: 8 opd prompts hold its problems" in shown
    assert run(["report", out]) == 0
    assert "Training prompts hold problems" in (tmp_path / "r" / "report.html").read_text()
    assert run(["check-overlap", str(recipe), "--json"]) == 0
    computed = json.loads(capsys.readouterr().out.partition("report.html")[2])
    assert [(o["source"], o["exact"]) for o in computed] == [("prompts.sft", 0), ("prompts.opd", 8)]


def test_models_of_a_run_are_compared_on_a_page_of_their_own(finished, tmp_path):
    folders = [str(finished / "run/evaluate" / model) for model in ("tail", "reference")]
    assert run(["report", *folders, "--out", str(tmp_path / "two.html")]) == 0
    page = (tmp_path / "two.html").read_text()
    assert "minus tail, paired" in page and "7+" in page


def test_results_are_read_under_their_present_name_first(copied):
    folder = copied / "run/evaluate/tail"
    (folder / "scores.json").write_text("{}")  # of a version that was stopped before its record
    assert read_results(folder).benchmarks["sums"].problems == 8
    (folder / "results.json").rename(folder / "scores.json")
    assert read_results(folder).benchmarks["sums"].problems == 8
