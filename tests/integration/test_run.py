"""A whole small run through the real command line, and the files that it leaves."""

import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import record_of, write_small_recipe
from leyden.cli.main import run
from leyden.run.table import STAGES
from leyden.store.reader import open_store
from leyden.telemetry.metrics import read_metrics

MODELS = ["teacher", "base", "reference", "sampled", "tail", "live", "control"]


def status(folder, capsys) -> dict:
    capsys.readouterr()
    assert run(["status", str(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_status_tells_stages_scores_and_consistency(finished, capsys):
    computed = status(finished / "run", capsys)
    stages = {stage["name"]: stage for stage in computed["stages"]}
    assert list(stages) == list(STAGES)
    assert {stage["state"] for stage in stages.values()} == {"done"}
    assert (stages["teach"]["rows"], stages["rollout"]["rows"]) == (24 + 8, 40)
    assert stages["score"]["tokens"] == stages["rollout"]["tokens"] > 0
    assert all(stages[name]["device_seconds"] > 0 for name in list(stages)[2:])
    assert list(computed["results"]) == MODELS
    for benchmarks in computed["results"].values():
        score = benchmarks["sums"]
        low, high = score["interval"]
        assert 0 <= low <= score["accuracy"] <= high <= 1
        assert (score["problems"], score["samples"]) == (8, 8)
    assert computed["results"]["teacher"]["sums"]["accuracy"] > 0.7
    assert computed["teacher_consistency"] == "verified"


def test_running_again_does_nothing_and_changes_nothing(copied, capsys):
    before = {p: p.stat().st_mtime_ns for p in (copied / "run").rglob("record.json")}
    assert run(["run", str(copied / "small.toml"), "--out", str(copied / "run")]) == 0
    assert {p: p.stat().st_mtime_ns for p in (copied / "run").rglob("record.json")} == before
    assert "running" not in capsys.readouterr().err


def test_each_stage_is_a_command_of_its_own(tmp_path):
    """Only `run` makes the folder, and --dry-run makes nothing."""
    recipe = write_small_recipe(tmp_path)
    assert run(["run", str(recipe), "--out", str(tmp_path / "r"), "--dry-run"]) == 0
    assert not (tmp_path / "r").exists()


def test_scores_are_the_teachers_and_the_references_own(finished):
    """Compared with float64 log-probs of the two models over the whole vocabulary, row by row."""
    import torch
    from transformers import AutoModelForCausalLM

    models = {
        "logp_teacher": AutoModelForCausalLM.from_pretrained(finished / "models/teacher"),
        "logp_reference": AutoModelForCausalLM.from_pretrained(finished / "run/sft/model"),
    }
    rollouts = open_store(finished / "run/rollout")
    scores = open_store(finished / "run/score")
    for index in (0, 7, 39):
        ids = [*rollouts[index]["prompt_ids"], *rollouts[index]["completion_ids"]]
        first = len(rollouts[index]["prompt_ids"])
        for name, model in models.items():
            with torch.no_grad():
                logits = model.double()(torch.tensor([ids])).logits[0]
            logp = logits.log_softmax(-1)[range(first - 1, len(ids) - 1), ids[first:]]
            np.testing.assert_allclose(scores[index][name], logp.numpy(), atol=2e-4)


def test_rollouts_end_in_the_stop_token_and_are_never_retokenised(finished):
    for row in open_store(finished / "run/rollout"):
        ends = row["completion_ids"][-1] == 1
        assert row["finish_reason"] == ("stop" if ends else "length")
        assert len(row["completion_ids"]) == len(row["logp_sampler"])


def test_sampler_and_reference_agree_at_temperature_one(finished):
    """The reference sampled the rollout, so sampling and scoring must give the same log-probs."""
    rollouts, scores = open_store(finished / "run/rollout"), open_store(finished / "run/score")
    for rollout, score in zip(rollouts, scores, strict=True):
        np.testing.assert_allclose(rollout["logp_sampler"], score["logp_reference"], atol=2e-4)


def test_the_first_distillation_step_starts_at_the_reference(finished):
    """Before the first update, both distilled arms have drift 0 and importance weight 1."""
    for arm in ("sampled", "tail"):
        lines = (finished / f"run/distill/{arm}/metrics.jsonl").read_text().splitlines()
        first = json.loads(lines[0])
        assert (first["step"], first["split"]) == (0, "heldout")
        assert abs(first["drift_mean"]) < 1e-5 and first["drift_rms"] < 1e-4
        assert first["ratio_mean"] == pytest.approx(1)
        assert math.isfinite(first["advantage_min"])
        assert first["ratio_ess"] == pytest.approx(1)
        assert json.loads(lines[-1])["ratio_ess"] < 1 - 1e-6


def test_every_stored_token_is_trained(finished):
    """32 training rollouts are one epoch of four steps of eight, and every token is in it once."""
    store = open_store(finished / "run/rollout")
    lengths = [len(row["completion_ids"]) for row in store if row["split"] == "opd"]
    metrics = read_metrics(finished / "run/distill/sampled/metrics.jsonl")
    steps = [m["tokens"] for m in metrics if m["split"] == "train"]
    assert sum(steps[:4]) == sum(lengths)
    assert record_of(finished / "run/distill/sampled").counts["rows"] == len(lengths) == 32


def test_a_trained_model_is_a_complete_hugging_face_folder(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finished / "run/distill/tail/model"
    AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer is not None
    assert tokenizer.chat_template and tokenizer.eos_token == "<eos>"
    before = load_file(finished / "run/sft/model/model.safetensors")
    after = load_file(folder / "model.safetensors")
    assert any((before[k] != after[k]).any() for k in before)


def test_show_prints_tokens_with_their_advantage(finished, capsys):
    assert run(["show", str(finished / "run"), "score", "3"]) == 0
    assert "advantage" in capsys.readouterr().out
    assert run(["show", str(finished / "run"), "score", "999"]) == 1
    assert "has no row 999" in capsys.readouterr().err


def test_verify_passes_on_a_finished_run(finished, capsys):
    assert run(["verify", str(finished / "run")]) == 0
    assert "one teacher: verified" in capsys.readouterr().out


def test_another_arm_is_added_to_a_finished_run(copied, capsys):
    arm = '{objective = "topk", learning_rate = 1e-4, steps = 2}'
    flags = ["--distill.arms.extra", arm]
    assert run(["run", str(copied / "small.toml"), "--out", str(copied / "run"), *flags]) == 0
    assert "extra" in status(copied / "run", capsys)["results"]


LIVE_AND_STORED = (
    "{live = {learning_rate = 1e-4, refresh_every = 3}, "
    'tail = {objective = "topk_tail", learning_rate = 3e-4}}'
)


def test_two_ranks_train_the_same_student(copied):
    """Two data-parallel processes have the losses of one process, up to rounding."""
    shutil.move(copied / "run", copied / "one")
    command = [sys.executable, "-m", "leyden.cli.main", "run", str(copied / "small.toml")]
    command += ["--out", str(copied / "run"), "--execution.ranks", "2"]
    command += ["--distill.arms", LIVE_AND_STORED]  # each training job starts torchrun: seconds
    done = subprocess.run(
        [*command, "--evaluate.benchmarks", "[]", "--evaluate.kl-prompts", "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for job in ("sft", "distill/tail", "distill/live"):
        one, two = (read_metrics(copied / name / job / "metrics.jsonl") for name in ("one", "run"))
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4 if job == "sft" else 1e-2)
            assert a["tokens"] == b["tokens"] or job == "distill/live"


def end_of_a_pipe_without_reader() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def test_a_table_ends_quietly_where_its_reader_has_gone(finished):
    program = [sys.executable, "-m", "leyden.cli.main", "status", str(finished / "run")]
    broken = end_of_a_pipe_without_reader()
    done = subprocess.run(program, stdout=broken, stderr=subprocess.PIPE, check=False)
    os.close(broken)
    assert (done.returncode, done.stderr) == (0, b"")


def test_work_that_nobody_can_follow_ends_with_an_error_code(copied):
    """Notices go to stderr. Where they cannot, the work was cut short, which is no success."""
    program = [sys.executable, "-m", "leyden.cli.main", "run", str(copied / "small.toml")]
    broken = end_of_a_pipe_without_reader()
    done = subprocess.run(
        [*program, "--out", str(copied / "run")], stdout=subprocess.PIPE, stderr=broken, check=False
    )
    os.close(broken)
    assert done.returncode == 1
