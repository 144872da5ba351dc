"""What would stop a run later stops it before the first token, in a dry run as well."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import MODELS, write_small_recipe
from leyden.cli.main import run
from leyden.errors import EngineError
from leyden.models.weights import check_weights


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
    assert "prompts.sft: " in printed and "bytes of weights in " in printed
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "problem", "hint"),
    [
        (["run", "RECIPE", "--dryrun"], "--dryrun: no such option", "did you mean --dry-run?"),
        (["run", "RECIPE", "--outt", "x"], "--outt: no such option", "did you mean --out?"),
        (
            ["run", "RECIPE", "--models.teacher", "FILE"],
            "is a file, not a model folder",
            "give the",
        ),
    ],
)
def test_what_was_meant_is_said(tmp_path, capsys, arguments, problem, hint):
    file = str(tmp_path / "models/base/model.safetensors")
    places = {"RECIPE": str(write_small_recipe(tmp_path)), "FILE": file}
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
