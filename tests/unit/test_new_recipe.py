"""``leyden init`` writes a recipe that validates and runs, from models and prompts as they are."""

import json
import shutil

import pytest

from conftest import MODELS
from leyden.cli.main import run
from leyden.recipe.toml import load_recipe

PROMPTS = MODELS.parent / "prompts"


def init(out, *prompts, teacher=MODELS / "teacher", student=MODELS / "base") -> int:
    models = ["--teacher", str(teacher), "--student", str(student)]
    return run(["init", *models, "--prompts", *map(str, prompts), "--out", str(out)])


def rows(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


@pytest.fixture
def questions():
    lines = (PROMPTS / "sft.jsonl").read_text().splitlines()[:120]
    return [json.loads(line)["prompt"] for line in lines]


def test_one_file_is_cut_in_two_and_the_recipe_runs(tmp_path, capsys):
    assert init(tmp_path / "mine.toml", PROMPTS / "sft.jsonl") == 0
    recipe = load_recipe(tmp_path / "mine.toml")
    sft, opd = recipe.prompts.sft, recipe.prompts.opd
    assert (sft.id_field, sft.limit, opd.skip) == ("id", 500, 500)
    assert recipe.name == "mine" and recipe.prompts.max_prompt_tokens == 16
    assert recipe.teach.max_new_tokens == 256 - 16, "as much as the context leaves"
    assert recipe.sft.learning_rate > 8e-5, "a small student takes larger steps than one of 4B"
    capsys.readouterr()
    assert run(["run", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "r"), "--dry-run"]) == 0
    assert "prompts: 500 sft, 450 opd, 50 heldout" in capsys.readouterr().out


def test_answers_make_a_benchmark_of_rows_that_nothing_is_trained_on(tmp_path, questions, capsys):
    asked = [{"question": q, "answer": str(i)} for i, q in enumerate(questions)]
    assert init(tmp_path / "r.toml", rows(tmp_path / "q.jsonl", asked)) == 0
    recipe = load_recipe(tmp_path / "r.toml")
    (benchmark,) = recipe.evaluate.benchmarks
    assert (benchmark.grader, benchmark.problems.skip) == ("math", 108)
    assert (recipe.prompts.sft.limit, recipe.prompts.opd.skip, recipe.prompts.opd.limit) == (
        54,
        54,
        54,
    )
    assert recipe.prompts.sft.prompt_field == "question"
    assert 'file = "q.jsonl"' in (tmp_path / "r.toml").read_text(), (
        "paths are relative where they can be"
    )
    assert (
        run(["run", str(tmp_path / "r.toml"), "--out", str(tmp_path / "r"), "--until", "sft"]) == 0
    )


def test_repeated_prompts_and_messages_are_read_as_published(tmp_path, questions):
    layout = [
        {"prompt": [{"role": "user", "content": q}], "reward_model": {"ground_truth": "1"}}
        for q in questions * 3
    ]
    out = tmp_path / "r.toml"
    assert init(out, rows(tmp_path / "dapo.jsonl", layout)) == 0
    recipe = load_recipe(out)
    assert recipe.prompts.opd.deduplicate and recipe.prompts.opd.limit is None
    assert recipe.prompts.opd.answer_field == "reward_model.ground_truth"
    assert "cannot be cut in two" in out.read_text()


def test_tests_make_a_benchmark_of_programs(tmp_path, questions):
    asked = [{"prompt": q, "tests": ["assert f()"]} for q in dict.fromkeys(questions)]
    assert init(tmp_path / "r.toml", rows(tmp_path / "c.jsonl", asked)) == 0
    (benchmark,) = load_recipe(tmp_path / "r.toml").evaluate.benchmarks
    assert benchmark.grader == "code" and benchmark.problems.answer_field is None


def test_ids_that_repeat_are_left_out_and_rows_are_cut(tmp_path, questions):
    asked = [{"id": "a", "prompt": q} for q in dict.fromkeys(questions)]
    out = tmp_path / "deep" / "r.toml"
    out.parent.mkdir()
    assert init(out, rows(tmp_path / "ids.jsonl", asked), student=tmp_path / ".." / "base") == 1
    assert init(out, rows(tmp_path / "ids.jsonl", asked)) == 0
    recipe = load_recipe(out)
    assert recipe.prompts.opd.skip == recipe.prompts.sft.limit == len(asked) // 2
    assert recipe.prompts.sft.id_field is None and ".." not in out.read_text()


def test_two_files_are_one_for_each(tmp_path):
    out = tmp_path / "r.toml"
    assert init(out, PROMPTS / "sft.jsonl", PROMPTS / "opd.jsonl") == 0
    recipe = load_recipe(out)
    assert str(recipe.prompts.opd.file).endswith("opd.jsonl") and recipe.prompts.sft.limit is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("exists", "r.toml: exists"),
        ("few", "holds 1 prompts, too few to cut in two"),
        ("field", "has no field 'prompt'; it has 'x'"),
        ("model", "no such model folder"),
        ("three", "--prompts: 3 files"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(tmp_path, capsys, change, problem):
    out, prompts, more = tmp_path / "r.toml", [PROMPTS / "sft.jsonl"], {}
    if change == "exists":
        out.write_text("mine")
    if change == "few":
        prompts = [rows(tmp_path / "p.jsonl", [{"prompt": "1+1="}])]
    if change == "field":
        prompts = [rows(tmp_path / "p.jsonl", [{"x": "1+1="}])]
    if change == "model":
        more = {"student": tmp_path / "none"}
    if change == "three":
        prompts *= 3
    assert init(out, *prompts, **more) == 1
    assert problem in capsys.readouterr().err
    assert out.read_text() == "mine" if change == "exists" else not out.exists()


def test_models_of_two_families_are_refused(tmp_path, capsys):
    other = shutil.copytree(MODELS / "base", tmp_path / "other")
    text = (other / "tokenizer.json").read_text()
    tokens = json.loads(text)["model"]["vocab"]
    first, second = list(tokens)[5:7]
    swapped = json.loads(text)
    vocabulary = swapped["model"]["vocab"]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(swapped))
    assert init(tmp_path / "r.toml", PROMPTS / "sft.jsonl", student=other) == 1
    assert "have different tokenizers" in capsys.readouterr().err
    assert not (tmp_path / "r.toml").exists()
