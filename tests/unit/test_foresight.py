"""What would stop a run later stops it before the first token, in a dry run as well."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import MODELS, write_small_recipe
from hub import COMMIT, local_hub
from leyden.cli.main import run
from leyden.data.render import Renderer
from leyden.errors import EngineError
from leyden.models.vocabulary import load_tokenizer
from leyden.models.weights import check_weights
from leyden.pipeline.foresight import foresee
from leyden.recipe.schema import Template
from leyden.run.graph import resolve
from leyden.run.run import Run
from leyden.run.stage import PROBLEMS, PROMPTS


def spoil(model, change):
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def not_a_number(place):
    def change(tensors):
        name = sorted(tensors)[1]
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[place] = torch.nan

    return change


def in_bfloat16(tensors):
    for name, tensor in tensors.items():
        tensors[name] = tensor.bfloat16()
    tensors[name].view(-1)[0] = torch.inf


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(MODELS / "base", tmp_path / "model")


@pytest.mark.parametrize("change", [not_a_number(0), not_a_number(-1), in_bfloat16])
def test_weights_that_are_not_finite_are_named(model, change):
    assert check_weights(model) == (model / "model.safetensors").stat().st_size
    spoil(model, change)
    with pytest.raises(EngineError, match=r"model\.safetensors: .* holds NaN or infinity"):
        check_weights(model)


@pytest.mark.parametrize(
    ("keep", "problem"), [(100, "its header cannot be read"), (-4, "it ends before its tensors do")]
)
def test_weights_that_are_not_whole_are_named(model, keep, problem):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(EngineError, match=f"damaged: {problem}"):
        check_weights(model)


def test_a_missing_shard_is_named(model):
    names = {"model.embed_tokens.weight": "model-1.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(EngineError, match=r"model-1\.safetensors: is missing"):
        check_weights(model)


def test_a_dry_run_reads_files_and_weights_and_samples_nothing(tmp_path, capsys):
    recipe = write_small_recipe(tmp_path)
    assert run(["run", str(recipe), "--out", str(tmp_path / "r"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "prompts: 24 sft, 32 opd, 8 heldout, of up to " in printed
    assert "bytes of weights in " in printed and "problems: 8 sums, of up to " in printed
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "problem", "hint"),
    [
        (["run", "RECIPE", "--dryrun"], "--dryrun: no such option", "did you mean --dry-run?"),
        (["run", "RECIPE", "--outt", "x"], "--outt: no such option", "did you mean --out?"),
        (
            ["run", "RECIPE", "--models.teacher", "FILE"],
            "is a file, not a model folder",
            "give its folder, ",
        ),
        (["run", "RECIPE", "--models.base", "GGUF"], "is a file", "GGUF files are not read"),
        (
            ["run", "RECIPE", "--models.base", "ADAPTER"],
            "is a PEFT adapter of org/base, not a model",
            "merge_and_unload",
        ),
        (["evaluate", "ADAPTER", "--benchmarks", "EMPTY"], "is a PEFT adapter", "merge"),
        (
            ["evaluate", "ARM", "--benchmarks", "EMPTY"],
            "holds a model, and is none",
            "distill/a/model",
        ),
        (["evaluate", "FILE", "--benchmarks", "EMPTY"], "is a file", "give its folder"),
        (["compare", "NOTHING", "NOTHING"], "no such folder", "check the path"),
        (["run", "RECIPE", "--prompts.opd.file", "EMPTY"], "is empty", "a prompt per row"),
        (
            ["run", "RECIPE", "--prompts.opd.id_field", "x"],
            "has no field 'x'",
            "leave id_field out",
        ),
        (
            ["evaluate", "x", "--bencmarks", "y"],
            "--bencmarks: no such",
            "did you mean --benchmarks?",
        ),
        (["rnu", "RECIPE"], "has no command 'rnu'", "did you mean `leyden run`?"),
    ],
)
def test_what_was_meant_is_said(tmp_path, capsys, arguments, problem, hint):
    places = {"RECIPE": str(write_small_recipe(tmp_path)), "ARM": str(tmp_path / "distill/a")}
    places["FILE"] = str(tmp_path / "models/base/model.safetensors")
    for name in ("ADAPTER", "GGUF", "EMPTY", "NOTHING"):
        places[name] = str(tmp_path / name.lower())
    (tmp_path / "adapter").mkdir()
    adapter = {"base_model_name_or_path": "org/base"}
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(adapter))
    (tmp_path / "gguf").write_text("x")
    (tmp_path / "empty").write_text("")
    shutil.copytree(tmp_path / "models/base", tmp_path / "distill/a/model")
    assert run([places.get(a, a) for a in arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert problem in error and hint in error


FAULTS = {
    "file": (["--prompts.opd.file", "absent.jsonl"], None, "absent.jsonl: cannot read prompts"),
    "field": (["--prompts.opd.prompt_field", "x"], None, "has no field 'x'"),
    "weights": ([], not_a_number(0), "holds NaN or infinity"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_a_run_stops_before_it_samples(tmp_path, capsys, fault, dry):
    flags, change, problem = FAULTS[fault]
    recipe = write_small_recipe(tmp_path)
    if change:
        spoil(tmp_path / "models/base", change)
    assert run(["run", str(recipe), "--out", str(tmp_path / "r"), *dry, *flags]) == 1
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "r/teach").exists()


def test_a_job_makes_no_more_than_was_forecast(finished):
    """Every row, and no more tokens and bytes, of every job of a finished run."""
    graph = resolve(Run.open(finished / "run"))
    forecasts = foresee(graph, graph.jobs).forecasts
    assert [job for job in graph.jobs if job not in forecasts] == [PROMPTS, PROBLEMS]
    for job, forecast in forecasts.items():
        record = graph.require(job)
        folder = finished / "run" / str(job)
        stage = graph.stage(job)
        if not stage.trains:
            kl = 4 * (stage.name == "evaluate" and job.name != "teacher")
            assert forecast.rows == record.counts["rows"] + kl
        assert record.counts["tokens"] <= forecast.prompt_tokens + forecast.tokens
        parts = [*folder.rglob("*.arrow"), *folder.rglob("model/*"), *folder.rglob("grades/*")]
        written = sum(p.stat().st_size for p in parts)
        assert 0 < written <= forecast.stored, job


def test_what_is_often_not_meant_gets_a_sentence(tmp_path, capsys, caplog):
    recipe = write_small_recipe(tmp_path)
    same = str(MODELS.parent / "prompts" / "sft.jsonl")
    flags = ["--prompts.opd.file", same, "--sft.batch_size", "60", "--distill.batch_size", "32"]
    command = ["run", str(recipe), "--out", str(tmp_path / "r"), *flags]
    assert run([*command, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "24 of the 32 OPD prompts are SFT prompts as well" in printed
    assert "sft.batch_size = 60 is over its 24 rows: each step learns every row 2.5" in printed
    assert "distill.arms.control.batch_size = 32 is over its 24 rows" in printed
    assert "distill.arms.sampled" not in printed
    assert run([*command, "--until", "prompts"]) == 0
    assert "SFT prompts as well" in caplog.text


QWEN = (
    "{% if messages[0].role != 'system' %}<s>system\nYou are helpful.</s>{% endif %}"
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>{% endfor %}<s>assistant\n"
)
PLAIN = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>{% endfor %}<s>assistant\n"
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + PLAIN
)


@pytest.mark.parametrize(
    ("chat", "system", "found"),
    [
        (QWEN, None, "You are helpful."),
        (QWEN, "Be brief.", ""),
        (PLAIN, None, ""),
        (NO_SYSTEM, None, ""),
    ],
)
def test_a_system_prompt_that_a_template_adds_is_found(chat, system, found):
    tokenizer = load_tokenizer(MODELS / "base")
    tokenizer.chat_template = chat
    renderer = Renderer(tokenizer, Template(system=system), MODELS / "base")
    assert renderer.default_system == found


def test_a_dry_run_fetches_no_weights_from_the_hub(tmp_path):
    """Through the Hub's own client, against a server here that serves the tiny models."""
    recipe = write_small_recipe(tmp_path)
    served = {"org/teacher": tmp_path / "models/teacher", "org/base": tmp_path / "models/base"}
    text = recipe.read_text()
    for name, folder in served.items():
        text = text.replace(str(folder), name)
    prompts = tmp_path / "prompts" / "plain"
    prompts.mkdir(parents=True)
    for split in ("train", "test"):  # the SFT prompts come from a data set with configurations
        shutil.copy(MODELS.parent / "prompts/sft.jsonl", prompts / f"{split}-0-of-1.jsonl")
    local = f'file = "{MODELS.parent / "prompts/sft.jsonl"}"'
    split = f'revision = "{COMMIT}", config = "plain", split = "train"'
    place = f'hub = {{ repo = "org/prompts", {split} }}'
    assert local in text
    recipe.write_text(text.replace(local, place))
    command = [sys.executable, "-m", "leyden.cli.main", "run", str(recipe)]
    command += ["--out", str(tmp_path / "r")]
    with local_hub(served, {"org/prompts": tmp_path / "prompts"}) as (address, fetched):
        places = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache")}
        environment = os.environ | places | {"HF_HUB_DISABLE_XET": "1"}
        dry = subprocess.run(
            [*command, "--dry-run"], env=environment, capture_output=True, text=True
        )
        assert dry.returncode == 0, dry.stderr
        assert "teacher: weights of org/teacher, fetched when the run begins" in dry.stdout
        assert "prompts: 24 sft" in dry.stdout and "config.json" in fetched
        assert "plain/train-0-of-1.jsonl" in fetched and "plain/test-0-of-1.jsonl" not in fetched
        assert not any(name.endswith(".safetensors") for name in fetched)
        until = subprocess.run(
            [*command, "--until", "teach"], env=environment, capture_output=True, text=True
        )
        assert until.returncode == 0, until.stderr
        assert fetched.count("model.safetensors") == 2
        again = subprocess.run(
            [*command, "--dry-run"], env=environment, capture_output=True, text=True
        )
    assert "teach                  skip: done" in again.stdout
    assert "bytes of weights in " in again.stdout


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (":grade", ":none", "has no function 'none'"),
        ("task.py:grade", "none.py:grade", "no such grader file"),
        ('grader = "{grader}"', 'grader = "mth"', "'mth' is not known"),
        (
            'grader = "{grader}"',
            'grader = "code"\nchecker = "checks.py"',
            "checks.py: names a file and no function",
        ),
        ("task.py:grade", "own.py:raises", "on an empty answer: the grader raised IndexError"),
        (
            'grader = "{grader}"',
            'grader = "code"\nchecker = "own.py:checks"',
            "own.py:checks: the checker raised ValueError: could not convert",
        ),
    ],
)
def test_a_dry_run_loads_graders_and_checkers(tmp_path, capsys, old, new, problem):
    recipe = write_small_recipe(tmp_path)
    grader = MODELS.parent / "task.py"
    (tmp_path / "own.py").write_text(
        "def raises(row, text): return text.split()[0] == 'x'\n"
        "def checks(given, output, expected): return float(output) == float(expected)\n"
    )
    text = recipe.read_text()
    found = old.format(grader=f"{grader}:grade")
    assert found in text
    rows = tmp_path / "c.jsonl"
    cases = [{"input": "1", "output": "1"}]
    rows.write_text(json.dumps({"prompt": "1+1=", "id": "1", "tests": cases}) + "\n")
    text = text.replace(found, new.replace("own.py", str(tmp_path / "own.py")))
    text = text.replace(f"{MODELS.parent}/{tmp_path}", str(tmp_path))
    if "checker" in new:
        text = text.replace(str(MODELS.parent / "prompts/test.jsonl"), str(rows))
    recipe.write_text(text)
    assert run(["run", str(recipe), "--out", str(tmp_path / "r"), "--dry-run"]) == 1
    assert problem in capsys.readouterr().err
