"""Guards against unsuitable models, checkpoints and files: each refuses with a sentence."""

import gzip
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import MODELS, random_model, write_small_recipe
from leyden.cli.main import run
from leyden.data.sources import read_prompts
from leyden.distributed.ranks import Alone
from leyden.engines.base import GenerateRequest
from leyden.engines.transformers import TransformersEngine
from leyden.errors import ConfigError, EngineError, StoreError
from leyden.evals.graders import apply_grader, load_grader
from leyden.files import read_json
from leyden.models.load import load_model
from leyden.provenance.records import read_checked, write_checked
from leyden.recipe.benchmarks import Benchmark, Problems
from leyden.recipe.sampling import PromptFile, Sampling
from leyden.recipe.toml import load_recipe
from leyden.recipe.training import Optimisation
from leyden.telemetry.metrics import read_metrics
from leyden.train.checkpoint import Checkpoint, ResumePoint, load_latest, save_checkpoint
from leyden.train.optimizer import make_optimizer, optimizer_tensors


@pytest.fixture
def model(tmp_path):
    shutil.copytree(MODELS / "base", tmp_path / "m")
    return tmp_path / "m"


def test_missing_weights_are_refused(model):
    tensors = load_file(model / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineError, match="1 weights are missing or misshapen"):
        load_model(model, device="cpu", dtype="float32")


def rewrite(change):
    """An edit of a folder's tensors."""

    def edit(folder):
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return edit


def set_config(**fields):
    def edit(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return edit


def shrink(tensors):
    """Projections as float8 with a scale beside each, as published float8 models have them."""
    made = dict(tensors)
    for name in [name for name in tensors if "proj" in name]:
        scale = tensors[name].abs().max() / 448
        made[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        made[f"{name}_scale_inv"] = scale.reshape(1, 1)
    return made


def with_biases(tensors):
    key = "model.layers.0.self_attn.q_proj"
    return tensors | {f"{key}.bias": torch.ones(len(tensors[f"{key}.weight"]))}


def with_lora(tensors):
    return tensors | {"model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 2)}


def only_gguf(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.gguf").write_bytes(b"GGUF")


def lfs_pointer(folder):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (folder / "model.safetensors").write_text(text)


def adapter(folder):
    (folder / "adapter_config.json").write_text("{}")


def as_integers(tensors):
    return {k: v.to(torch.int8) if v.dim() == 2 else v for k, v in tensors.items()}


LEFT_OUT = {
    "integers": (rewrite(as_integers), "holds I8, not floating-point numbers", "bfloat16"),
    "float8": (rewrite(shrink), "has no place for", "scales of quantised weights"),
    "layers": (set_config(num_hidden_layers=1), "has no place for, first model.layers.1", "config"),
    "biases": (rewrite(with_biases), "1 weights that its config.json has no place for", "config"),
    "lora": (rewrite(with_lora), "has no place for", "merge the LoRA adapter"),
    "peft": (adapter, "is a PEFT adapter, not a model", "merge_and_unload"),
    "gguf": (only_gguf, "GGUF weights are not read", "Hugging Face format"),
    "lfs": (lfs_pointer, "is a Git LFS pointer, not weights", "git lfs pull"),
    "quantised": (
        set_config(quantization_config={"quant_method": "gptq"}),
        r"its weights are quantised \(gptq\)",
        "bfloat16",
    ),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_is_not_a_whole_plain_model_is_named(model, kind):
    edit, sentence, hint = LEFT_OUT[kind]
    edit(model)
    with pytest.raises(EngineError, match=sentence) as caught:
        load_model(model, device="cpu", dtype="float32")
    assert hint in caught.value.hint


def test_weights_that_the_config_makes_anew_are_harmless(model):
    edit = rewrite(lambda t: t | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    edit(model)
    load_model(model, device="cpu", dtype="float32")


def test_a_model_that_gives_nan_samples_nothing():
    model = random_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    from leyden.recipe.schema import Execution

    engine = TransformersEngine.around(model, Execution())
    with pytest.raises(EngineError, match="log-probs are not finite"):
        list(engine.generate([GenerateRequest([5, 6], 0)], Sampling(max_new_tokens=4), [1]))


def checkpoint(step: int) -> Checkpoint:
    model = random_model()
    state = optimizer_tensors(model, make_optimizer(model, Optimisation()))
    return Checkpoint(ResumePoint(step, {"training": 1.0}), Alone().gather(model), state)


def test_a_damaged_checkpoint_is_refused_and_an_incomplete_one_ignored(tmp_path):
    for step in (2, 4):
        save_checkpoint(tmp_path, checkpoint(step))
    (tmp_path / "step-000006").mkdir()
    newest = load_latest(tmp_path)
    assert newest is not None and newest.point == ResumePoint(4, {"training": 1.0})
    path = tmp_path / "step-000004" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"step-000004/model\.safetensors: damaged"):
        load_latest(tmp_path)


def test_old_checkpoints_are_dropped(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, checkpoint(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000002", "step-000003"]


DAMAGE = {
    "config.json": ["[]", "{", '{"model_type": "nonsense"}'],
    "tokenizer.json": ["[]", "{"],
    "tokenizer_config.json": ["[]"],
    "generation_config.json": ["[]", '{"eos_token_id": "one"}'],
    "chat_template.jinja": ["{% if %}", "{{ raise_exception('no') }}", "{{ raise_exception('') }}"],
}
CASES = [(name, text) for name, texts in DAMAGE.items() for text in texts]


@pytest.mark.parametrize(("name", "text"), CASES)
def test_a_damaged_model_folder_is_a_sentence(tmp_path, capsys, name, text):
    recipe = write_small_recipe(tmp_path)
    (tmp_path / "models/teacher" / name).write_text(text)
    assert run(["run", str(recipe), "--out", str(tmp_path / "r")]) == 1
    errors = capsys.readouterr().err
    assert "error: " in errors and "hint: " in errors


def bad_prompt_files():
    whole = gzip.compress(b'{"prompt": "a"}\n' * 200)
    return {
        "cut.jsonl.gz": whole[: len(whole) // 2],
        "noise.jsonl.gz": whole[:10] + b"\xff" * 40,
        "surrogate.jsonl": b'{"prompt": "\\ud800"}',
        "number.jsonl": b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}",
    }


@pytest.mark.parametrize("name", bad_prompt_files())
def test_an_unreadable_prompt_file_is_a_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(bad_prompt_files()[name])
    with pytest.raises(ConfigError, match=name):
        read_prompts(PromptFile(file=str(tmp_path / name)))


def test_graders_that_raise_are_sentences(tmp_path):
    (tmp_path / "g.py").write_text("def grade(problem, completion): return problem['x']")
    grader = load_grader(f"{tmp_path}/g.py:grade")
    with pytest.raises(ConfigError, match="g on p: the grader raised KeyError"):
        apply_grader(grader, {}, "", where="g on p")
    (tmp_path / "g.py").write_text("def")
    with pytest.raises(ConfigError, match="cannot be imported: SyntaxError"):
        load_grader(f"{tmp_path}/g.py:grade")
    (tmp_path / "g.py").write_text("import sys\ndef grade(problem, completion): sys.exit('no')")
    with pytest.raises(ConfigError, match="g on p: the grader raised SystemExit"):
        apply_grader(load_grader(f"{tmp_path}/g.py:grade"), {}, "", where="g on p")


def test_a_grader_that_compares_needs_an_answer():
    with pytest.raises(ValueError, match=r"set problems\.answer_field"):
        Benchmark(name="b", grader="math", problems=Problems(file="x"))


BROKEN_RUNS = {
    "teach/SEALED.json": "{}",
    "teach/store.json": "[]",
    "teach/intent.json": '{"models": []}',
    "evaluate/base/results.json": "{}",
    "sft/metrics.jsonl": "{bad\n",
    "score/record.json": "{",
}


RECIPES = {
    "deep": ("a = " + "[" * 5000 + "]" * 5000, "not valid TOML"),
    "digits": ("seed = " + "9" * 10_000, "not valid TOML"),
    "a long key": (".".join("a" * 20_000) + " = 1", ":1: its key is too deep"),
    "null": ('name = "a\\u0000"', "a text holds a null character"),
    "large": ("#" + "x" * 2**20, "bytes, over 1,048,576"),
}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_hostile_recipe_is_a_sentence(tmp_path, kind):
    text, problem = RECIPES[kind]
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ConfigError, match=f"r.toml.*{problem}"):
        load_recipe(tmp_path / "r.toml")


RECORDS = [
    ("teach", {"counts": {"rows": "x"}}),
    ("teach", {"counts": [1]}),
    ("teach", {"device_seconds": "x"}),
    ("teach", {"fingerprint": 5}),
    ("teach", {"phases": {"sampling": "x"}}),
    ("prompts", {"facts": None}),
    ("problems", {"counts": {"overlap": {"sums": "x"}}}),
    ("distill/tail", {"facts": {"metrics": 5}}),
]


@pytest.mark.parametrize(("job", "change"), RECORDS)
def test_a_record_of_other_types_is_a_sentence(copied, capsys, job, change):
    path = copied / "run" / job / "record.json"
    write_checked(path, read_checked(path) | change)
    for command in ("status", "verify"):
        assert run([command, str(copied / "run")]) == 1
        assert f"{job}/record.json: not a record of this version" in capsys.readouterr().err


def test_what_a_record_says_does_not_steer_the_terminal(copied, capsys):
    path = copied / "run/score/record.json"
    write_checked(path, read_checked(path) | {"teacher_consistency": "\x1b]0;title\x07\x1b[2J"})
    assert run(["status", str(copied / "run")]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_the_curve_of_another_arm_is_not_shown_as_an_arms_own(copied, capsys):
    arms = copied / "run/distill"
    shutil.copy(arms / "sampled/metrics.jsonl", arms / "tail/metrics.jsonl")
    assert run(["status", str(copied / "run"), "--json"]) == 0
    changed = json.loads(capsys.readouterr().out)["changed"]
    assert "tail/metrics.jsonl: its content is" in changed["distill/tail"]


@pytest.mark.parametrize("name", ["sft/metrics.jsonl", "teach/plan.arrow", "recipe.toml"])
def test_a_pipe_in_a_run_is_not_waited_for(copied, capsys, name):
    path = copied / "run" / name
    path.unlink()
    os.mkfifo(path)
    assert run(["verify", str(copied / "run")]) == 1
    captured = capsys.readouterr()
    assert "is not a" in captured.out + captured.err


@pytest.mark.parametrize("name", BROKEN_RUNS)
def test_a_damaged_run_folder_is_a_sentence(copied, capsys, name):
    (copied / "run" / name).write_text(BROKEN_RUNS[name])
    codes = [run([command, str(copied / "run")]) for command in ("status", "verify", "report")]
    assert 1 in codes
    errors = capsys.readouterr().err
    assert name in errors and "hint: " in errors


def test_a_writers_temporary_files_are_not_counted(copied, capsys):
    folder = copied / "run/score"
    (folder / "record.json").unlink()
    commit = sorted((folder / "commits").iterdir())[0]
    shutil.copy(commit, folder / "commits" / ".tmp-abc-000000.json")
    (folder / "commits" / ".tmp-def-000001.json").write_text("")
    capsys.readouterr()
    assert run(["status", str(copied / "run"), "--json"]) == 0
    stages = {s["name"]: s for s in json.loads(capsys.readouterr().out)["stages"]}
    assert stages["score"]["rows"] == 40 and stages["score"]["state"] == "unfinished"


@pytest.mark.parametrize("change", [{"step": 5}, {"sha256": {}}, {"step": "x"}])
def test_an_edited_checkpoint_state_is_refused(tmp_path, change):
    save_checkpoint(tmp_path, checkpoint(4))
    state = tmp_path / "step-000004" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | change))
    with pytest.raises(StoreError, match=r"state\.json: was edited"):
        load_latest(tmp_path)


@pytest.mark.parametrize(
    "line",
    [b"\xff", b"[]", b'{"step": 1, "split": "train"}', b'{"step": "x", "split": "train"}', b"{"],
)
def test_a_damaged_metrics_file_is_a_sentence(tmp_path, line):
    good = b'{"step": 0, "split": "heldout", "loss": NaN, "tokens": 3}\n'
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(good)
    assert read_metrics(path)[0]["tokens"] == 3
    path.write_bytes(good + line + b"\n")
    with pytest.raises(StoreError, match=r"metrics\.jsonl.*damaged"):
        read_metrics(path)


def test_a_grader_may_be_any_module(tmp_path):
    (tmp_path / "g.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Verdict:\n    right: bool\n"
        "def grade(problem, completion): return Verdict(completion == 'y').right\n"
    )
    grader = load_grader(f"{tmp_path}/g.py:grade")
    assert grader({}, "y") and not grader({}, "n")


def test_infinity_by_overflow_in_a_config_has_an_identity(model):
    from leyden.provenance.identity import identify_model

    config = model / "config.json"
    config.write_text(config.read_text().replace("{", '{"odd": 1e999,', 1))
    assert len(identify_model(model).digest) == 64


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b"1" * 10_000, b"\xff", b"{", b'{"a": ' + b"9" * 5000 + b"}"],
    ids=["deep", "digits", "bytes", "cut", "number"],
)
def test_json_from_others_is_refused_in_a_sentence(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"x\.json: damaged: "):
        read_json(path)


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(StoreError, match="is not a regular file"):
        read_json(tmp_path / "x.json")
