"""A change to a run's files, models or settings is refused by name before a model is loaded."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conftest import write_small_recipe
from leyden.cli.main import run
from leyden.errors import StoreError
from leyden.files import cache_home
from leyden.pipeline.drift import check_run
from leyden.pipeline.pipeline import run_jobs
from leyden.provenance import identity
from leyden.recipe.toml import load_recipe, parse_overrides
from leyden.run.graph import resolve
from leyden.run.run import Run
from leyden.run.stage import PROMPTS
from leyden.store.reader import open_store
from leyden.store.writer import sealed_content
from leyden.telemetry.metrics import read_metrics
from leyden.train import loop


def again(folder, *flags) -> int:
    return run(["run", str(folder / "small.toml"), "--out", str(folder / "run"), *flags])


def forget(folder, *jobs) -> None:
    """Leave the run as if it had stopped before ``jobs``."""
    for job in jobs:
        shutil.rmtree(folder / "run" / job)


@pytest.fixture
def unscored(copied):
    forget(copied, "score", "distill", "evaluate")
    return copied


def one_weight(models):
    path = models / "teacher" / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    tensors[name].flat[0] = np.nextafter(tensors[name].flat[0], np.float32(9))
    save_file(tensors, path, metadata={"format": "pt"})


def one_template_character(models):
    path = models / "teacher" / "chat_template.jinja"
    path.write_text(path.read_text() + " ")


def one_tokenizer_entry(models):
    path = models / "teacher" / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"]["~"] = values["model"]["vocab"].pop("z")
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (one_weight, "weights"),
        (one_template_character, "template"),
        (one_tokenizer_entry, "tokenizer"),
    ],
)
def test_another_teacher_may_not_score(unscored, capsys, change, part):
    change(unscored / "models")
    began = time.monotonic()
    assert again(unscored) == 1
    assert time.monotonic() - began < 5
    errors = capsys.readouterr().err
    assert f"they differ in {part}" in errors
    assert "score.allow_inconsistent_teacher" in errors
    assert not (unscored / "run" / "score").exists()


def test_the_override_is_recorded_and_shown(unscored, capsys):
    one_weight(unscored / "models")
    assert again(unscored, "--score.allow-inconsistent-teacher", "true") == 0
    capsys.readouterr()
    assert run(["status", str(unscored / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["teacher_consistency"] == "overridden"


@pytest.mark.parametrize(
    ("change", "part"), [(one_template_character, "template"), (one_tokenizer_entry, "tokenizer")]
)
def test_prompts_are_answered_only_as_they_were_rendered(copied, capsys, change, part):
    forget(copied, "teach", "sft", "rollout", "score", "distill", "evaluate")
    change(copied / "models")
    assert again(copied) == 1
    assert f"rendered with a teacher whose {part} changed since" in capsys.readouterr().err


def test_the_teacher_may_not_change_halfway_through_its_answers(copied, capsys):
    forget(copied, "sft", "rollout", "score", "distill", "evaluate")
    (copied / "run/teach/record.json").unlink()
    one_weight(copied / "models")
    assert again(copied) == 1
    assert "its weights changed" in capsys.readouterr().err


def test_the_teacher_may_not_change_after_scoring(copied, capsys):
    one_weight(copied / "models")
    assert again(copied) == 1
    errors = capsys.readouterr().err
    assert "run/score: made with the teacher" in errors and "its weights changed" in errors


@pytest.mark.parametrize(
    ("flags", "named", "redo"),
    [
        (["--sft.steps", "7"], "sft.steps = 6, and the recipe now says 7", "sft, rollout, score"),
        (["--seed", "6"], "seed = 5, and the recipe now says 6", "teach, sft"),
        (["--score.top_k", "5"], "score.top_k = 4, and the recipe now says 5", "distill/tail"),
        (
            ["--distill.arms.tail.learning_rate", "1e-4"],
            "distill.arms.tail.learning_rate = 0.0003, and the recipe now says 0.0001",
            "distill/tail, evaluate/tail",
        ),
    ],
)
def test_an_edited_recipe_is_refused_with_field_values_and_consequences(
    copied, capsys, flags, named, redo
):
    assert again(copied, *flags) == 1
    errors = capsys.readouterr().err
    assert named in errors and redo in errors


def test_redo_makes_again_and_keeps_what_was(copied, capsys):
    flags = ["--distill.arms.tail.learning_rate", "1e-4"]
    assert again(copied, *flags, "--redo", "distill/tail") == 0
    assert (copied / "run/superseded/001/distill/tail/record.json").exists()
    assert "distill/sampled" not in [
        line.split()[0] for line in capsys.readouterr().err.splitlines() if "running" in line
    ]


def test_an_edited_prompt_file_is_refused(tmp_path, capsys):
    recipe = write_small_recipe(tmp_path)
    prompts = tmp_path / "own.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"{i}+1="}) + "\n" for i in range(30)))
    fields = parse_overrides(["--prompts.opd", f'{{file = "{prompts}"}}'])
    opened = Run(tmp_path / "run", load_recipe(recipe, fields))
    opened.root.mkdir()
    run_jobs(opened, [PROMPTS])
    shutil.move(prompts, tmp_path / "moved.jsonl")
    moved = parse_overrides(["--prompts.opd", f'{{file = "{tmp_path}/moved.jsonl"}}'])
    opened = Run(tmp_path / "run", load_recipe(recipe, moved))
    check_run(resolve(opened), [])  # a place is no part of the identity
    text = (tmp_path / "moved.jsonl").read_text()
    (tmp_path / "moved.jsonl").write_text(text.replace("3+1", "3+2"))
    with pytest.raises(StoreError, match=r"made from prompts\.opd"):
        check_run(resolve(opened), [])


def test_the_teacher_may_not_change_while_it_answers(copied, monkeypatch, capsys):
    """A teacher that is edited during its stage leaves no record."""
    from leyden.pipeline import pipeline

    forget(copied, "teach", "sft", "rollout", "score", "distill", "evaluate")
    real = pipeline.call_stage

    def tampering(graph, intent):
        record = real(graph, intent)
        one_weight(copied / "models")
        return record

    monkeypatch.setattr(pipeline, "call_stage", tampering)
    assert again(copied) == 1
    assert "its weights changed while teach was running" in capsys.readouterr().err
    assert not (copied / "run/teach/record.json").exists()


def test_a_teacher_changed_between_two_stages_of_one_process_is_noticed(
    copied, monkeypatch, capsys
):
    from leyden.pipeline import pipeline

    forget(copied, "rollout", "score", "distill", "evaluate")
    real = pipeline.finish

    def tampering(graph, record, neighbours):
        real(graph, record, neighbours)
        if record.intent.stage == "rollout":
            one_weight(copied / "models")

    monkeypatch.setattr(pipeline, "finish", tampering)
    assert again(copied) == 1
    assert "they differ in weights" in capsys.readouterr().err


def perturb(path):
    tensors = load_file(path)
    tensors[sorted(tensors)[0]].flat[0] += 1
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("kept", [["sft"], ["sft", "rollout", "score"]])
def test_a_changed_reference_is_used_by_no_later_stage(copied, capsys, kept):
    forget(copied, *({"rollout", "score", "distill", "evaluate"} - set(kept)))
    perturb(copied / "run/sft/model/model.safetensors")
    assert again(copied) == 1
    assert "run/sft/model: its weights changed since sft was finished" in capsys.readouterr().err


def test_a_store_that_is_not_the_recorded_one_is_not_trained_on(copied, capsys):
    """A missing unit is named by the seal. If the store is sealed again without it, the record
    does."""
    forget(copied, "distill", "evaluate")
    folder = copied / "run/score"
    store, seal = open_store(folder), json.loads((folder / "SEALED.json").read_text())
    units = seal["units"][:-1]
    (folder / "SEALED.json").write_text(json.dumps(seal | {"units": units}))
    assert again(copied) == 1
    assert "SEALED.json: damaged: it does not describe its shards" in capsys.readouterr().err
    kept = zip(units, store.shards, strict=False)
    shards = [(unit, digest, shard.table) for (unit, digest), shard in kept]
    (folder / "SEALED.json").write_text(json.dumps(sealed_content(store.schema, shards)))
    assert again(copied) == 1
    assert "run/score: its content is" in capsys.readouterr().err


def test_another_base_tokenizer_after_the_prompts_is_refused(copied, capsys):
    forget(copied, "sft", "rollout", "score", "distill", "evaluate")
    path = copied / "models/base/tokenizer.json"
    values = json.loads(path.read_text())
    vocab = values["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    path.write_text(json.dumps(values))
    assert again(copied) == 1
    assert "numbers its tokens otherwise" in capsys.readouterr().err


def test_distilling_on_stored_scores_needs_no_teacher_on_the_machine(copied):
    forget(copied, "distill/sampled", "distill/tail", "distill/control", "evaluate")
    shutil.rmtree(copied / "models/teacher")
    assert run(["distill", str(copied / "run")]) == 0


def test_redo_checks_and_locks_before_it_moves(copied, capsys):
    from leyden.pipeline.pipeline import lock

    with lock(copied / "run"):
        assert again(copied, "--redo", "sft") == 1
    assert "another leyden process" in capsys.readouterr().err
    one_weight(copied / "models")
    assert again(copied, "--redo", "sft") == 1
    assert (copied / "run/sft/record.json").exists()
    assert not (copied / "run/superseded").exists()


def test_redo_takes_a_whole_stage(copied):
    """A field that two arms share changed: one `--redo` of the stage is enough."""
    flags = ["--distill.steps", "5"]
    assert again(copied, *flags, "--redo", "distill/tail") == 1
    assert again(copied, *flags, "--redo", "distill") == 0
    assert len(list((copied / "run/superseded/001/distill").iterdir())) == 4


def test_a_finished_run_outlives_its_prompt_files(copied, capsys):
    moved = copied / "own"
    moved.mkdir()
    recipe = copied / "run/recipe.toml"
    recipe.write_text(recipe.read_text().replace("prompts/sft.jsonl", "prompts/gone.jsonl"))
    assert run(["verify", str(copied / "run")]) == 0


def test_a_wrong_grader_is_told_before_anything_is_sampled(tmp_path, capsys):
    recipe = write_small_recipe(tmp_path)
    recipe.write_text(recipe.read_text().replace("task.py:grade", "nowhere.py:grade"))
    assert run(["run", str(recipe), "--out", str(tmp_path / "r")]) == 1
    assert "no such grader file" in capsys.readouterr().err
    assert not (tmp_path / "r/teach").exists()


def test_until_makes_the_folder_that_stage_commands_continue(tmp_path):
    recipe = write_small_recipe(tmp_path)
    out = str(tmp_path / "r")
    assert run(["run", str(recipe), "--out", out, "--until", "prompts"]) == 0
    assert not (tmp_path / "r/teach").exists()
    assert run(["sft", out]) == 1
    for stage in ("teach", "sft", "rollout", "score", "distill", "evaluate"):
        assert run([stage, out]) == 0
    assert (tmp_path / "r/evaluate/tail/record.json").exists()


def test_dry_run_says_what_redo_would_do(copied, capsys):
    assert again(copied, "--redo", "score", "--dry-run") == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["rollout"] == "skip: done" and lines["score"].startswith("do: 40 rows")
    assert lines["distill/tail"].startswith("do: 48 rows")
    assert lines["distill/control"] == "skip: done"
    assert again(copied, "--sft.steps", "9", "--dry-run") == 1


@pytest.mark.parametrize("what", ["samples/sums", "divergence", "grades/sums.jsonl"])
def test_evaluation_samples_and_grades_belong_to_their_scores(copied, capsys, what):
    """Another model's samples and grades, sealed and undamaged, are refused in their place."""
    mine, other = copied / "run/evaluate/tail" / what, copied / "run/evaluate/base" / what
    if mine.is_dir():
        shutil.rmtree(mine)
        shutil.copytree(other, mine)
    else:
        shutil.copyfile(other, mine)
    assert run(["verify", str(copied / "run")]) == 1
    assert f"evaluate/tail/{what}: its content is" in capsys.readouterr().err


def test_verify_goes_on_after_a_failure_and_names_every_one(copied, capsys):
    for stage in ("teach", "score"):
        shard = sorted((copied / "run" / stage / "shards").iterdir())[0]
        shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    perturb(copied / "run/distill/tail/model/model.safetensors")
    assert run(["verify", str(copied / "run")]) == 1
    shown = capsys.readouterr()
    for name in ("lineage", "teach", "score", "distill/tail"):
        assert f"\n{name}: FAILED" in "\n" + shown.out
    assert "rollout: 40 rows" in shown.out and "hint: " in shown.err


@pytest.mark.parametrize("stage", ["teach", "rollout", "score"])
def test_a_flipped_byte_is_found_and_named(copied, capsys, stage):
    shard = sorted((copied / "run" / stage / "shards").iterdir())[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    assert run(["verify", str(copied / "run")]) == 1
    assert shard.name in capsys.readouterr().err


def test_training_refuses_a_damaged_store(copied, capsys):
    forget(copied, "distill", "evaluate")
    shard = sorted((copied / "run/score/shards").iterdir())[2]
    shard.unlink()
    assert again(copied) == 1
    assert f"{shard.name}: a shard is missing" in capsys.readouterr().err
    assert not list((copied / "run").rglob("distill/*/metrics.jsonl"))


def test_a_changed_model_is_found_by_verify(copied, capsys):
    path = copied / "run/distill/tail/model/model.safetensors"
    tensors = load_file(path)
    tensors[sorted(tensors)[0]].flat[0] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    assert run(["verify", str(copied / "run")]) == 1
    assert "distill/tail/model" in capsys.readouterr().err


def test_a_new_sft_model_is_not_silently_ignored(copied, capsys):
    """Artifacts are bound to their parents, so a new SFT student makes later ones invalid."""
    forget(copied, "sft")
    assert again(copied, "--sft.steps", "5") == 1
    assert "rollout: made from sft" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--models.teacher", "./nowhere"], "no such model folder"),
        (["--models.base", "./models"], "has no config.json"),
        (["--prompts.max_prompt_tokens", "5"], "over prompts.max_prompt_tokens = 5"),
        (["--teach.max_new_tokens", "300"], "exceeds the models' context of 256"),
        (["--out", __file__], "is a file, not a folder"),
        (["--prompts.heldout", "40"], "leaves none of the 40 OPD prompts"),
        (["--score.top_k", "48"], "is not below the vocabulary of 48"),
    ],
)
def test_bad_input_is_a_sentence_with_a_hint(tmp_path, capsys, monkeypatch, flags, sentence):
    recipe = write_small_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)  # paths in flags are relative to the working directory
    quick = ["--sft.steps", "1", "--evaluate.kl_prompts", "0"]
    assert run(["run", str(recipe), "--out", str(tmp_path / "r"), *quick, *flags]) == 1
    errors = capsys.readouterr().err
    assert sentence in errors and "hint: " in errors and "Traceback" not in errors


def test_models_of_different_tokenizers_are_refused(tmp_path, capsys):
    recipe = write_small_recipe(tmp_path)
    one_tokenizer_entry(tmp_path / "models")
    assert run(["run", str(recipe), "--out", str(tmp_path / "r")]) == 1
    assert "different tokenizers" in capsys.readouterr().err


def test_a_run_refused_at_first_can_be_started_again(tmp_path, capsys):
    recipe = write_small_recipe(tmp_path)
    command = ["run", str(recipe), "--out", str(tmp_path / "r")]
    assert run([*command, "--models.teacher", "./nowhere"]) == 1
    assert run([*command, "--score.top_k", "48"]) == 1
    assert "is not below the vocabulary" in capsys.readouterr().err
    (tmp_path / "r" / "notes.txt").write_text("mine")
    (tmp_path / "r" / "recipe.toml").unlink()
    assert run(command) == 1
    assert "not a run folder" in capsys.readouterr().err


def test_a_mended_prompt_file_needs_no_redo(tmp_path, capsys):
    """A stage that failed before it made anything may begin again from another file."""
    recipe = write_small_recipe(tmp_path)
    prompts = tmp_path / "own.jsonl"
    prompts.write_text('{"prompt": "1+2="}\n{bad\n')
    flags = ["--prompts.opd", f'{{file = "{prompts}"}}', "--prompts.heldout", "1"]
    flags += ["--evaluate.kl-prompts", "0"]
    command = ["run", str(recipe), "--out", str(tmp_path / "r"), *flags]
    assert run(command) == 1
    assert "own.jsonl:2: not valid JSON" in capsys.readouterr().err
    prompts.write_text("".join(json.dumps({"prompt": f"{i}+2="}) + "\n" for i in range(9)))
    assert run([*command, "--teach.max_new_tokens", "300"]) == 1
    assert "context of 256" in capsys.readouterr().err
    assert run(command) == 0


def test_unreadable_weights_are_a_sentence(tmp_path, capsys):
    recipe = write_small_recipe(tmp_path)
    (tmp_path / "models/teacher/model.safetensors").write_bytes(b"not safetensors")
    assert run(["run", str(recipe), "--out", str(tmp_path / "r")]) == 1
    assert "model.safetensors: damaged: " in capsys.readouterr().err


def test_usage_errors_exit_with_two():
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "leyden.cli.main", "frobnicate"], capture_output=True, check=False
    )
    assert done.returncode == 2


@pytest.mark.parametrize("job", ["sft", "distill/sampled", None])
def test_rendered_prompts_may_not_change_before_any_stage(copied, capsys, job):
    """Also stages that only read what was made from the prompts compare the prompts' hash."""
    if job:
        forget(copied, job)
    path = copied / "run/prompts/rendered.jsonl"
    path.write_text(path.read_text().replace('"text": "', '"text": "z', 1))
    command = [job.partition("/")[0], str(copied / "run")] if job else None
    assert (run(command) if command else again(copied)) == 1
    assert "rendered.jsonl: the rendered prompts changed" in capsys.readouterr().err


def test_scores_that_were_edited_are_not_shown(copied, capsys):
    path = copied / "run/evaluate/tail/results.json"
    path.write_text(path.read_text().replace('"accuracy": 0.', '"accuracy": 7.'))
    for command in ("status", "report"):
        assert run([command, str(copied / "run")]) == 1
        assert "evaluate/tail/results.json: its content is" in capsys.readouterr().err


def test_what_a_kill_left_beside_a_finished_job_is_removed(copied):
    litter = [copied / "run/distill/tail/checkpoints/step-000002/model.safetensors"]
    litter.append(copied / "run/evaluate/tail/grades/.tmp-0123456789ab-sums.jsonl")
    for path in litter:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert again(copied) == 0
    assert not any(path.exists() for path in litter)


def test_a_full_place_to_print_to_is_a_sentence(finished):
    command = [sys.executable, "-m", "leyden.cli.main", "status", str(finished / "run"), "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def verify(folder, capsys) -> tuple[int, str]:
    code = run(["verify", str(folder / "run")])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: data.replace(b'"step": 1', b'"step": 2', 1),
        lambda data: bytes([data[0] ^ 1]) + data[1:],
    ],
)
def test_verify_finds_every_change_of_the_metrics(copied, capsys, damage):
    path = copied / "run/distill/tail/metrics.jsonl"
    path.write_bytes(damage(path.read_bytes()))
    code, printed = verify(copied, capsys)
    assert code == 1 and "distill/tail: FAILED" in printed and "metrics.jsonl" in printed


def test_verify_reads_files_that_the_cache_of_hashes_knows(copied, capsys, monkeypatch):
    """A flipped bit of a disk changes neither size nor times."""
    monkeypatch.setattr(identity, "CACHE_FROM_BYTES", 0)
    assert verify(copied, capsys)[0] == 0
    path = copied / "run/sft/model/model.safetensors"
    assert run(["status", str(copied / "run")]) == 0
    data, status = bytearray(path.read_bytes()), path.stat()
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    hashed = cache_home() / "sha256"
    key = [str(path), len(data), path.stat().st_mtime_ns, path.stat().st_ctime_ns, status.st_ino]
    identity.hash_file(path)  # a key of the present times, which holds the hash of before
    good = bytes(data[:-1]) + bytes([data[-1] ^ 1])
    digest = hashlib.sha256(good).hexdigest()
    entry = hashed / identity.fingerprint(key)
    entry.write_text(f"{digest} {identity.fingerprint(digest)}\n")
    assert identity.hash_file(path) == digest
    code, printed = verify(copied, capsys)
    assert code == 1 and "sft/model: its weights changed since sft was finished" in printed


def test_a_damaged_entry_of_the_cache_of_hashes_is_no_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "CACHE_FROM_BYTES", 0)
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    right = identity.hash_file(path)
    (entry,) = (cache_home() / "sha256").iterdir()
    for damaged in ("", right, right[:-1] + "0 " + "0" * 64, "\x00"):
        entry.write_text(damaged)
        assert identity.hash_file(path) == right


def test_verify_names_what_it_did_not_check(copied, capsys):
    (copied / "run/distill/tail/record.json").unlink()
    (copied / "run/distill/sampled/record.json").unlink()
    (copied / "run/distill/sampled/intent.json").unlink()
    shutil.copytree(copied / "run/distill/control", copied / "run/distill/stranger")
    _, printed = verify(copied, capsys)
    assert "distill/tail: not finished, nothing of it was checked" in printed
    assert "distill/sampled: not recorded, nothing of it was checked" in printed
    assert "distill/stranger: the recipe has no such job, nothing of it was checked" in printed
    assert "evaluate/tail: " in printed


def test_a_resume_refuses_metrics_that_lost_lines(copied, capsys):
    """As after a power cut, when a checkpoint was on the disk and lines of the metrics were not."""
    arm = copied / "run/distill/tail"
    forget(copied, "distill/tail", "evaluate")
    command = ["--until", "distill/tail", "--distill.checkpoint-every", "2"]
    saved = loop.save_checkpoint
    with pytest.MonkeyPatch.context() as patch:

        def save_and_stop(folder, checkpoint):
            saved(folder, checkpoint)
            if checkpoint.point.step == 4 and folder.parent.name == "tail":
                raise KeyboardInterrupt

        patch.setattr(loop, "save_checkpoint", save_and_stop)
        assert again(copied, *command) == 130
    lines = (arm / "metrics.jsonl").read_text().splitlines(keepends=True)
    (arm / "metrics.jsonl").write_text("".join(lines[:-2]))
    assert again(copied, *command) == 1
    assert "lines of it changed or are gone since the checkpoint" in capsys.readouterr().err
    torn = b'{"step": 5, "half\n' + b"\0" * 512 + b"\n"  # as file systems leave what was not synced
    (arm / "metrics.jsonl").write_bytes("".join(lines).encode() + torn)
    assert again(copied, *command) == 0
    assert [m["step"] for m in read_metrics(arm / "metrics.jsonl") if m["split"] == "train"] == [
        *range(1, 1 + max(m["step"] for m in read_metrics(arm / "metrics.jsonl")))
    ]


def test_status_and_report_show_no_results_of_another_model(copied, capsys):
    """An evaluation that was copied to an arm's place is not the arm's."""
    folder = copied / "run/evaluate"
    shutil.rmtree(folder / "tail")
    shutil.copytree(folder / "teacher", folder / "tail")
    assert run(["status", str(copied / "run"), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert "tail" not in status["results"] and "sampled" in status["results"]
    assert "holds what was made as evaluate/teacher" in status["changed"]["evaluate/tail"]
    assert run(["status", str(copied / "run")]) == 0
    assert "evaluate/tail: holds what was made as" in capsys.readouterr().out.replace("\n", " ")
    assert run(["report", str(copied / "run")]) == 0
    page = (copied / "run/report.html").read_text()
    assert "Not what the recipe asks for:" in page and "evaluate/tail: holds what" in page


def test_status_follows_a_change_to_everything_made_from_it(copied, capsys):
    shutil.rmtree(copied / "run/distill/tail")
    shutil.copytree(copied / "run/distill/sampled", copied / "run/distill/tail")
    shutil.rmtree(copied / "models")  # status needs none of them
    assert run(["status", str(copied / "run"), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert list(status["changed"]) == ["distill/tail", "evaluate/tail"]
    states = {job["name"]: job["state"] for job in status["jobs"]}
    assert (states["distill/tail"], states["distill/sampled"]) == ("changed", "done")


@pytest.mark.parametrize("job", ["teach", "rollout", "score"])
def test_a_damaged_unit_is_made_again_by_itself(copied, capsys, job):
    folder = copied / "run" / job
    before = {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}
    record = (folder / "record.json").read_bytes()
    shards = sorted((folder / "shards").iterdir())
    assert len(shards) > 2
    data = bytearray(shards[1].read_bytes())
    data[len(data) // 2] ^= 1
    shards[1].write_bytes(data)
    timings = {p: p.stat().st_mtime_ns for p in (folder / "commits").iterdir()}
    assert run(["verify", str(copied / "run")]) == 1
    assert run(["verify", str(copied / "run"), "--repair"]) == 0
    printed = capsys.readouterr().out
    assert f"{job}: made again, to the same bytes: units 000001" in printed
    assert {path.name: path.read_bytes() for path in (folder / "shards").iterdir()} == before
    same = json.loads(record)
    assert json.loads((folder / "record.json").read_text())["fingerprint"] == same["fingerprint"]
    kept = {p: t for p, t in timings.items() if p.stem != "000001"}
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    (aside,) = (copied / "run/superseded").iterdir()
    assert (aside / job / "shards" / shards[1].name).read_bytes() == bytes(data)


@pytest.mark.parametrize(
    ("damaged", "named"),
    [
        ("samples/sums/shards/*.arrow", "samples/sums: units 000000"),
        ("samples/sums/commits/000000.json", "samples/sums: units 000000"),
        ("divergence/SEALED.json", "divergence: units none, the seal alone is damaged"),
        ("grades/sums.jsonl", "grades/sums.jsonl"),
        ("results.json", "results.json"),
    ],
)
def test_a_damaged_evaluation_is_made_again_by_its_parts(copied, capsys, damaged, named):
    folder = copied / "run/evaluate/tail"
    path = sorted(folder.glob(damaged))[0]
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.suffix in (".arrow", ".jsonl")}
    results, data = (folder / "results.json").read_bytes(), bytearray(path.read_bytes())
    place = data.index(b"1") if path.suffix == ".json" else len(data) // 2
    data[place : place + 1] = b"2"
    path.write_bytes(data)
    assert run(["verify", str(copied / "run")]) == 1
    capsys.readouterr()
    assert run(["verify", str(copied / "run"), "--repair"]) == 0
    assert f"evaluate/tail: made again, to the same bytes: {named}\n" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in before} == before
    assert (folder / "results.json").read_bytes() == results


def test_a_repair_of_a_sound_run_does_nothing(copied, capsys):
    before = sorted((copied / "run").rglob("*"))
    assert run(["verify", str(copied / "run"), "--repair"]) == 0
    assert "made again" not in capsys.readouterr().out
    assert sorted((copied / "run").rglob("*")) == before


@pytest.mark.parametrize("name", ["SEALED.json", "store.json"])
def test_a_flipped_seal_or_header_is_named_itself_and_repaired_or_refused(copied, capsys, name):
    path = copied / "run/rollout" / name
    text = path.read_text()
    old = json.loads(text)["units"][0][1][:8] if name == "SEALED.json" else "int32"
    path.write_text(text.replace(old, "0" * 8 if name == "SEALED.json" else "int64", 1))
    assert run(["verify", str(copied / "run")]) == 1
    printed = capsys.readouterr().out
    assert f"rollout/{name}: damaged" in printed and ".arrow: " not in printed
    code = run(["verify", str(copied / "run"), "--repair"])
    assert code == (0 if name == "SEALED.json" else 1)
