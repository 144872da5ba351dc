"""Intents and records of a run that were edited, deleted, or no longer fit the recipe."""

import json
import shutil

import pytest

from conftest import write_small_recipe
from leyden.cli.main import run
from leyden.files import read_json, write_json


def again(folder, *flags) -> int:
    return run(["run", str(folder / "small.toml"), "--out", str(folder / "run"), *flags])


def forget(folder, *jobs) -> None:
    for job in jobs:
        shutil.rmtree(folder / "run" / job)


def break_off_scoring(folder) -> None:
    """Leave the run as if it had been killed before the last unit of its scores."""
    forget(folder, "distill", "evaluate")
    for name in ("record.json", "SEALED.json", "commits/000004.json"):
        (folder / "run/score" / name).unlink()


def refused(capsys, code: int, *sentences: str) -> None:
    errors = capsys.readouterr().err
    assert code == 1 and "hint: " in errors and "Traceback" not in errors
    assert all(sentence in errors for sentence in sentences), errors


@pytest.mark.parametrize("name", ["record.json", "intent.json"])
@pytest.mark.parametrize("job", ["prompts", "teach", "score", "distill/tail"])
def test_an_edited_record_is_refused(copied, capsys, job, name):
    path = copied / "run" / job / name
    values = read_json(path)
    intent = values.get("intent", values)
    intent["settings"]["seed"] = 99
    write_json(path, values)
    refused(capsys, again(copied), f"{job}/{name}: was edited")
    assert run(["verify", str(copied / "run")]) == 1


def test_stored_consistency_and_counts_cannot_be_rewritten(copied, capsys):
    for job, old, new in [
        ("score", '"verified"', '"overridden"'),
        ("prompts", '"vocab_size": 48', '"vocab_size": 40'),
    ]:
        path = copied / "run" / job / "record.json"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        refused(capsys, run(["status", str(copied / "run")]), "was edited")
        path.write_text(text)


@pytest.mark.parametrize("job", ["score", "distill/tail"])
def test_a_finished_job_keeps_its_intent(copied, capsys, job):
    (copied / "run" / job / "intent.json").unlink()
    refused(capsys, again(copied), f"{job}/intent.json: missing")


def test_begun_work_keeps_its_intent(copied, capsys):
    break_off_scoring(copied)
    (copied / "run/score/intent.json").unlink()
    refused(capsys, again(copied, "--score.top_k", "2"), "score/intent.json: missing")


def test_a_store_is_not_finished_in_another_dtype(copied, capsys):
    break_off_scoring(copied)
    code = again(copied, "--execution.dtype", "bfloat16", "--until", "score")
    refused(capsys, code, "begun with execution.dtype = 'float32'")
    assert again(copied, "--until", "score") == 0


def test_an_attempt_that_made_nothing_is_forgotten_and_nothing_else_is(copied):
    forget(copied, "score", "distill", "evaluate")
    folder = copied / "run/score"
    (folder / "shards").mkdir(parents=True)
    notes = [folder / "notes.txt", folder / "shards/notes.txt"]
    for path in notes:
        path.write_text("mine")
    (folder / "store.json").write_text("{}")  # of a store that was begun and got no further
    assert again(copied, "--until", "score") == 0
    assert all(path.read_text() == "mine" for path in notes)


def test_another_version_of_a_library_is_said(copied, caplog, monkeypatch):
    break_off_scoring(copied)
    real = __import__("importlib.metadata").metadata.version
    newer = lambda name: "99.0" if name == "transformers" else real(name)  # noqa: E731
    monkeypatch.setattr("leyden.provenance.records.importlib.metadata.version", newer)
    assert again(copied, "--until", "score") == 0
    assert "going on with 99.0: later rows may round otherwise" in caplog.text


@pytest.mark.parametrize(
    ("gone", "flags", "sentence"),
    [
        (["rollout", "score"], ["--rollout.max-new-tokens", "400"], "context of 256"),
        (["score"], ["--score.top-k", "60"], "top_k = 60 is not below the vocabulary of 48"),
        ([], ["--evaluate.kl-max-new-tokens", "400"], "context of 256"),
    ],
)
def test_limits_hold_for_what_changes_after_the_prompts(copied, capsys, gone, flags, sentence):
    forget(copied, *gone, "distill", "evaluate")
    refused(capsys, again(copied, *flags), sentence)


def test_a_base_that_shrank_after_the_prompts_is_refused(copied, capsys):
    forget(copied, "teach", "sft", "rollout", "score", "distill", "evaluate")
    path = copied / "models/base/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 40}))
    refused(capsys, again(copied), "rendered for 48 ids, and a model now has 40")


def test_redo_moves_nothing_that_cannot_be_made_again(copied, capsys):
    before = sorted((copied / "run").rglob("*"))
    for flags in (["--models.base", "/nope"], ["--models.base", "/nope", "--dry-run"]):
        refused(capsys, again(copied, "--redo", "sft", *flags), "/nope: no such model folder")
    other = [
        "--models.teacher",
        str(copied / "models/other_teacher"),
        "--redo",
        "score",
        "evaluate",
    ]
    refused(capsys, again(copied, *other), "is not the teacher")
    refused(capsys, again(copied, *other, "--dry-run"), "is not the teacher")
    assert sorted((copied / "run").rglob("*")) == before


def test_redo_moves_nothing_when_what_it_would_read_is_damaged(copied, capsys):
    before = sorted((copied / "run").rglob("*"))
    shard = next((copied / "run/rollout/shards").iterdir())
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for flags in ([], ["--dry-run"]):
        refused(capsys, again(copied, "--redo", "distill", *flags), f"{shard}: damaged")
    assert sorted((copied / "run").rglob("*")) == before


def test_up_to_distill_no_teacher_is_needed(copied):
    forget(copied, "distill/sampled", "distill/tail", "distill/control", "evaluate")
    shutil.rmtree(copied / "models/teacher")
    assert again(copied, "--until", "distill") == 0


def test_a_declared_teacher_stays_declared(copied, tmp_path, capsys):
    adopted = tmp_path / "adopted"
    recipe = write_small_recipe(adopted)
    models = adopted / "models"
    flags = ["--models.reference", str(copied / "run/sft/model"), "--distill.arms", "{}"]
    flags += ["--prompts.opd.limit", "16", "--evaluate.benchmarks", "[]", "--until", "score"]
    command = ["run", str(recipe), "--out", str(adopted / "run"), *flags]
    assert run([*command, "--models.reference-teacher", str(models / "teacher")]) == 0
    code = run([*command, "--models.reference-teacher", str(models / "other_teacher")])
    refused(capsys, code, "prompts: made with the sft_teacher", "its weights changed")
