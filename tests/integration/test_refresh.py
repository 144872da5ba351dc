"""Arms with `refresh_every`: fresh rollouts of the current student, a live teacher, costs."""

import json
import shutil
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from test_variants import QUICK, redistil
from transformers import AutoModelForCausalLM

from conftest import VOCAB, columns_of, record_of, sampled_by_engine, scored_by_engine
from leyden.cli.main import run
from leyden.data.batches import rows_of_step
from leyden.data.completions import select_completions
from leyden.distributed.ranks import Alone
from leyden.engines.base import GenerateRequest
from leyden.engines.transformers import TransformersEngine
from leyden.errors import ConsistencyError, StoreError
from leyden.inference.refresh import Refresher
from leyden.monitor.costs import arm_costs
from leyden.monitor.status import run_status
from leyden.pipeline.pipeline import do_job
from leyden.recipe.sampling import Sampling
from leyden.recipe.schema import Execution
from leyden.run.artifacts import open_prompts
from leyden.run.graph import resolve
from leyden.run.run import Run
from leyden.run.stage import ROLLOUT, distill
from leyden.store.reader import open_store
from leyden.telemetry.clock import Clock
from leyden.telemetry.metrics import read_metrics

LIVE = distill("live")


@pytest.fixture
def live(copied) -> Run:
    shutil.rmtree(copied / "run/distill/live")
    return Run.open(copied / "run")


def refresher(run: Run, student) -> Refresher:
    return Refresher(
        graph=resolve(run),
        student=TransformersEngine.around(student, run.recipe.execution, VOCAB),
        settings=run.arms()["live"],
        seed=7,
        folder=run.folder(LIVE),
        origin="x",
        clock=Clock(),
        ranks=Alone(),
    )


def student_of(run: Run):
    return AutoModelForCausalLM.from_pretrained(run.place("reference")).eval()


def shaken(model):
    """Change the student's weights, as training would."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def test_each_refresh_samples_the_student_as_it_is_now(live):
    """The sampler's log-probs equal the current student's own, and not the reference's."""
    student = student_of(live)
    fresh = refresher(live, student)
    fresh.source(0, [])
    shaken(student)
    pair, _ = fresh.source(3, [])
    own = TransformersEngine.around(student, live.recipe.execution, VOCAB)
    old = TransformersEngine.around(student_of(live), live.recipe.execution, VOCAB)
    sequences = [pair[i] for i in range(len(pair))]
    drawn = np.concatenate([row["logp_sampler"] for row in pair.rollouts])
    now = np.concatenate([s.logp for s in scored_by_engine(own, sequences)])
    before = np.concatenate([s.logp for s in scored_by_engine(old, sequences)])
    np.testing.assert_allclose(drawn, now, atol=2e-4)
    assert np.abs(drawn - before).max() > 0.1


def test_the_live_teacher_scores_every_fresh_token(live):
    fresh = refresher(live, student_of(live))
    fresh.source(0, [])
    pair, rows = fresh.source(1, [])
    assert rows == range(8, 16) and len(pair) == 24
    teacher = AutoModelForCausalLM.from_pretrained(live.place("teacher")).eval()
    engine = TransformersEngine.around(teacher, Execution(device="cpu"), VOCAB)
    for index in rows:
        (again,) = scored_by_engine(engine, [pair[index]])
        np.testing.assert_allclose(columns_of(pair[index]).teacher.logp, again.logp, atol=1e-4)


def test_prompts_come_in_the_order_of_an_offline_arm(live):
    fresh = refresher(live, student_of(live))
    stored = open_store(live.folder(ROLLOUT))
    keys = zip(stored.values("prompt_id"), stored.values("split"), strict=True)
    prompts = [prompt for prompt, split in keys if split == "opd"]
    for step in range(live.arms()["live"].steps):
        pair, rows = fresh.source(step, [])
        mine = [pair.rollouts[i]["prompt_id"] for i in rows]
        order = rows_of_step(step, batch_size=8, num_rows=len(prompts), seed=7)
        assert mine == [prompts[row] for row in order]


def test_a_refresh_resumes_to_the_same_bytes_and_forgets_later_ones(live):
    student = student_of(live)
    first, _ = refresher(live, student).source(0, [])
    expected = [first.rollouts.fingerprint, first.scores.fingerprint]
    folder = live.folder(LIVE) / "refresh"
    shutil.copytree(folder / "000000", folder / "000003")  # as if killed after another refresh
    for name in ("rollout", "score"):
        (folder / "000000" / name / "SEALED.json").unlink()
        next((folder / "000000" / name / "commits").iterdir()).unlink()
    again, _ = refresher(live, student).source(0, [])
    assert [again.rollouts.fingerprint, again.scores.fingerprint] == expected
    assert not (folder / "000003").exists()


def test_a_resumed_refresh_is_not_charged_again(live):
    """A checkpoint in the middle of a refresh has its seconds already."""
    student, clock = student_of(live), Clock()
    replace(refresher(live, student), clock=clock).source(0, [])
    charged = dict(clock.seconds)
    assert charged["sampling"] > 0
    resumed = replace(refresher(live, student), clock=Clock())
    resumed.source(1, [1])
    assert sum(resumed.clock.seconds.values()) == 0
    begun_again = replace(refresher(live, student), clock=Clock())
    begun_again.source(0, [])
    assert begun_again.clock.seconds == pytest.approx(charged)


def test_a_folder_that_is_no_refresh_is_left_alone(live):
    home = live.folder(LIVE) / "refresh"
    (home / ".DS_Store").mkdir(parents=True)
    refresher(live, student_of(live)).source(0, [])
    assert (home / ".DS_Store").exists()


def test_steps_in_the_middle_of_a_refresh_that_is_gone_are_refused(live):
    with pytest.raises(StoreError, match="the rollouts of the steps from 1 on are gone"):
        refresher(live, student_of(live)).source(2, [])


def test_refreshes_that_no_checkpoint_needs_are_removed(live):
    fresh = refresher(live, student_of(live))
    fresh.source(0, [3, 4])
    fresh.source(3, [3, 4])
    assert [p.name for p in (fresh.folder / "refresh").iterdir()] == ["000003"]


def test_a_prompt_that_comes_twice_is_answered_twice(copied):
    """One prompt in batches of eight gives eight samples, each with its own seed."""
    arm = '[distill.arms.live]\nrefresh_every = 2\nobjective = "topk_tail"\nsteps = 2\n'
    flags = ["--prompts.opd.limit", "9", "--redo", "prompts"]
    assert redistil(copied, arm, *flags) == 0
    shutil.rmtree(copied / "run/distill/live")
    run_ = Run.open(copied / "run")
    pair, _ = refresher(run_, student_of(run_)).source(0, [])
    keys = [(row["prompt_id"], row["sample"]) for row in pair.rollouts]
    assert len(set(keys)) == 16 and {key[1] for key in keys} == set(range(16))
    assert len({row["completion_ids"].tobytes() for row in pair.rollouts}) > 1


def test_sampling_scoring_training_and_measuring_are_told_apart(finished):
    root = finished / "run"
    costs = arm_costs(resolve(Run.open(root)))
    record = record_of(root / "distill/live")
    assert set(record.phases) == {"sampling", "scoring", "training", "measuring"}
    assert sum(record.phases.values()) == pytest.approx(record.device_seconds)
    assert costs["live"].shared_by == 1
    assert costs["sampled"].shared_by == costs["tail"].shared_by == 2
    rollout = record_of(root / "rollout")
    part = rollout.counts["split_tokens"]["opd"] / rollout.counts["tokens"]
    assert 0 < part < 1
    assert costs["tail"].sampling == pytest.approx(part * rollout.device_seconds)
    score = record_of(root / "score")
    assert costs["tail"].scoring == pytest.approx(part * score.device_seconds)
    assert costs["control"].scoring == 0 < costs["control"].sampling


def test_without_an_offline_arm_only_what_is_measured_is_rolled_out(copied):
    arm = "[distill.arms.live]\nrefresh_every = 1\nsteps = 2\n"
    shutil.rmtree(copied / "run/score")
    shutil.rmtree(copied / "run/rollout")
    assert redistil(copied, arm) == 0
    assert set(open_store(copied / "run/rollout").values("split")) == {"heldout"}
    assert record_of(copied / "run/distill/live").counts["rows"] == 16


def test_a_penalty_against_the_reference_works_on_fresh_rollouts(copied):
    arm = "[distill.arms.live]\nrefresh_every = 1\nkl_to_reference = 0.5\nlearning_rate = 1e-3\n"
    assert redistil(copied, arm) == 0
    trained = read_metrics(copied / "run/distill/live/metrics.jsonl")
    heldout = [m for m in trained if m["split"] == "heldout"]
    assert heldout[0]["drift_rms"] < 1e-4 < heldout[-1]["drift_rms"]
    assert not any("ratio_mean" in m for m in trained if m["split"] == "train")


def test_the_live_teacher_must_be_the_one_that_scored(copied, capsys):
    shutil.rmtree(copied / "run/distill/live")
    shutil.rmtree(copied / "run/evaluate")
    config = copied / "models/teacher/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 1e-5}))
    assert run(["run", str(copied / "small.toml"), "--out", str(copied / "run")]) == 1
    assert "teacher" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ('objective = "sft"\nrefresh_every = 1', "refresh_every must be 0"),
        ('importance = "token"\nrefresh_every = 1', "the student's own"),
        ("patience = 2\neval_every = 0", "eval_every is 0"),
    ],
)
def test_settings_that_cannot_go_together(copied, capsys, fields, sentence):
    assert redistil(copied, f"[distill.arms.a]\n{fields}\n") == 1
    assert sentence in capsys.readouterr().err


RUINED = (
    '[distill.arms.a]\nobjective = "topk_tail"\nlearning_rate = 7e-3\n'
    "steps = 12\nwarmup_steps = 12\neval_every = 1\n"
)


def test_patience_stops_and_keeps_the_best_student(copied):
    """A learning rate that ruins the student: training stops early with the weights of the best
    step. These are the weights of a run that was told to end at that step."""
    arm = RUINED
    assert redistil(copied, arm + "patience = 2\n") == 0
    counts = record_of(copied / "run/distill/a").counts
    heldout = [
        m for m in read_metrics(copied / "run/distill/a/metrics.jsonl") if m["split"] == "heldout"
    ]
    best = min(heldout, key=lambda m: m["kl_topk"])["step"]
    assert counts["kept_step"] == best
    assert counts["steps"] == best + 2 < 12
    assert best > 0, "the first is the best: nothing is shown"
    kept = (copied / "run/distill/a/model/model.safetensors").read_bytes()
    shutil.move(copied / "arms.toml", copied / "small.toml")
    assert redistil(copied, arm.replace("steps = 12\nwarm", f"steps = {best}\nwarm")) == 0
    assert (copied / "run/distill/a/model/model.safetensors").read_bytes() == kept


def test_patience_resumes_with_the_best_so_far(copied, monkeypatch):
    """Killing at every checkpoint does not change the student."""
    from leyden.train import loop

    arm = RUINED
    arm += "patience = 3\ncheckpoint_every = 1\n"
    assert redistil(copied, arm) == 0
    kept = (copied / "run/distill/a/model/model.safetensors").read_bytes()
    shutil.move(copied / "arms.toml", copied / "small.toml")
    save = loop.save_checkpoint

    def save_and_die(*given):
        save(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", save_and_die)
        assert redistil(copied, arm) == 130
        for _ in range(3):
            assert (
                run(["run", str(copied / "small.toml"), "--out", str(copied / "run"), *QUICK])
                == 130
            )
    assert run(["run", str(copied / "small.toml"), "--out", str(copied / "run"), *QUICK]) == 0
    assert (copied / "run/distill/a/model/model.safetensors").read_bytes() == kept


def test_heldout_answers_tell_length_and_stop_rate(finished):
    heldout = [
        m
        for m in read_metrics(finished / "run/distill/tail/metrics.jsonl")
        if m["split"] == "heldout"
    ]
    assert all(1 <= m["length_mean"] <= 64 and 0 <= m["stop_rate"] <= 1 for m in heldout)
    assert all(m["kl_topk"] >= -1e-6 and m["kl_sampled"] >= -1e-6 for m in heldout)


def test_an_arm_that_goes_wrong_is_said_while_it_trains_and_ever_after(copied, capsys, caplog):
    arm = "[distill.arms.a]\nlearning_rate = 3e-2\n"
    assert redistil(copied, arm) == 0
    assert any("distill/a, step" in record.message for record in caplog.records)
    status = run_status(resolve(Run.open(copied / "run")))
    result = {finding.name for finding in status.warnings["a"]}
    assert "leaving_teacher" in result
    assert run(["status", str(copied / "run")]) == 0
    assert "warning: a, step" in capsys.readouterr().out
    assert run(["report", str(copied / "run")]) == 0
    assert 'class="warning"' in (copied / "run/report.html").read_text()


def test_a_float32_student_samples_in_bfloat16_where_it_trains_in_it(live):
    """The backbone runs under autocast, logits in float32: the difference is within bfloat16's
    error."""
    student = student_of(live)
    requests = [GenerateRequest(p.ids, 3) for p in list(open_prompts(resolve(live)).values())[:8]]
    drawn = {}
    for dtype in ("float32", "bfloat16"):
        engine = TransformersEngine.around(student, Execution(device="cpu", dtype=dtype), VOCAB)
        drawn[dtype] = sampled_by_engine(engine, requests, Sampling(max_new_tokens=1), [1])
    gaps = [abs(a.logp[0] - b.logp[0]) for a, b in zip(*drawn.values(), strict=True)
            if a.ids[0] == b.ids[0]]  # fmt: skip
    assert gaps and 0 < max(gaps) < 0.1


def test_what_a_kill_left_of_an_old_refresh_harms_nothing(live):
    fresh = refresher(live, student_of(live))
    fresh.source(0, [])
    home = fresh.folder / "refresh"
    (home / "000000").rename(home / ".tmp-000000")  # killed while it was being removed
    again, _ = refresher(live, student_of(live)).source(0, [])
    assert len(again) == 24
    assert [p.name for p in home.iterdir()] == ["000000"]


def test_a_teacher_changed_between_scoring_and_a_live_arm_is_refused(live, capsys):
    """Within one command nothing compares the score stage again, so the arm itself must notice."""
    config = live.place("teacher") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 1e-5}))
    with pytest.raises(ConsistencyError, match="its config changed since it scored"):
        do_job(live, LIVE)


def test_a_stored_arm_taken_away_leaves_the_rollouts_as_they_are(copied):
    arm = "[distill.arms.live]\nrefresh_every = 3\nlearning_rate = 1e-4\n"
    assert redistil(copied, arm) == 0
    assert set(open_store(copied / "run/rollout").values("split")) == {"opd", "heldout"}


def test_a_sampled_live_arm_asks_for_no_more_than_it_reads(live):
    pair, _ = refresher(live, student_of(live)).source(0, [])
    assert "topk_ids" not in pair.scores.schema.names


def test_patience_without_heldout_answers_is_refused(copied, capsys):
    """The control's held-out completions are all cut at the cap, so there is nothing to measure."""
    arm = '[distill.arms.a]\nobjective = "sft"\npatience = 1\n'
    with patch("leyden.stages.distill.select_completions", without_heldout):
        assert redistil(copied, arm) == 1
    assert "patience needs a held-out completion" in capsys.readouterr().err


def without_heldout(store, split, **choose):
    result = select_completions(store, split, **choose)
    return replace(result, rows=()) if split == "heldout" else result
