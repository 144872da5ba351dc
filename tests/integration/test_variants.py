"""Variants of a run: packed, bfloat16, importance weights, an adopted student, another task."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import MODELS, columns_of, write_small_recipe
from leyden.cli.main import run
from leyden.data.scored import open_pair, sequence_of
from leyden.data.sequences import ModelScores
from leyden.engines.base import ScoreRequest, TokenScores
from leyden.engines.open import open_reference
from leyden.engines.transformers import TransformersEngine
from leyden.errors import AlignmentError, ConsistencyError, EngineError, LeydenError
from leyden.inference.score import SAME_MODEL
from leyden.inference.units import all_results
from leyden.recipe.training import Objective, Sft
from leyden.run.graph import resolve
from leyden.run.run import REFERENCE, TEACHER, Run
from leyden.run.stage import SCORE
from leyden.store.plan import make_plan
from leyden.store.reader import open_store
from leyden.store.schema import COMPLETIONS, scores_schema
from leyden.store.writer import open_writer
from leyden.telemetry.metrics import append_metrics, read_metrics
from leyden.train.outcome import check_outcome, warn_of_repeats

QUICK = ["--evaluate.kl-prompts", "0", "--evaluate.benchmarks", "[]"]


def metrics(folder, job):
    return read_metrics(folder / job / "metrics.jsonl")


def redistil(copied, arms: str, *flags) -> int:
    """Train other arms on the finished run's scores."""
    shutil.rmtree(copied / "run/distill")
    shutil.rmtree(copied / "run/evaluate")
    command = ["run", str(copied / "small.toml"), "--out", str(copied / "run"), *QUICK]
    shutil.copy(copied / "small.toml", copied / "arms.toml")
    text = (copied / "small.toml").read_text()
    head, tail = text.index("[distill.arms.sampled]"), text.index("[evaluate]")
    (copied / "small.toml").write_text(text[:head] + arms + "\n" + text[tail:])
    return run([*command, *flags])


def test_packed_and_padded_training_agree(copied):
    arm = '[distill.arms.a]\nobjective = "topk_tail"\nlearning_rate = 3e-4\n'
    assert redistil(copied, arm) == 0
    padded = metrics(copied / "run", "distill/a")
    shutil.move(copied / "arms.toml", copied / "small.toml")
    assert redistil(copied, arm, "--execution.layout", "packed") == 0
    packed = metrics(copied / "run", "distill/a")
    for a, b in zip(padded, packed, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)


@pytest.mark.parametrize(
    "fields",
    [
        'importance = "token"',
        'importance = "prefix"',
        'importance = "sequence"\nimportance_cap = 1.5',
        "kl_to_reference = 0.1",
        'objective = "topk_tail"\nimportance = "prefix"\nkl_to_reference = 0.1',
        'objective = "topk"',
    ],
)
def test_every_option_trains_and_is_measured(copied, fields):
    assert redistil(copied, f"[distill.arms.a]\n{fields}\nlearning_rate = 1e-4\n") == 0
    last = metrics(copied / "run", "distill/a")[-1]
    assert np.isfinite(last["loss"])
    assert ("weight_ess" in last) == ("importance" in fields)
    assert 0 < last.get("weight_ess", 0.5) < 1 - 1e-9


def test_bfloat16_scores_within_its_rounding(copied, tmp_path):
    """The same rollouts scored in bfloat16 differ far less than another model's scores."""
    exact = [row["logp_teacher"] for row in open_store(copied / "run/score")]
    for job in ("score", "distill", "evaluate"):
        shutil.rmtree(copied / "run" / job)
    command = ["run", str(copied / "small.toml"), "--out", str(copied / "run"), *QUICK]
    assert run([*command, "--execution.dtype", "bfloat16"]) == 0
    rounded = [row["logp_teacher"] for row in open_store(copied / "run/score")]
    gaps = np.concatenate([np.abs(a - b) for a, b in zip(exact, rounded, strict=True)])
    assert 0 < gaps.mean() < 0.05


def test_an_adopted_student_is_declared(copied, tmp_path, capsys):
    recipe = tmp_path / "adopt.toml"
    text = (copied / "small.toml").read_text()
    control = text.index("[distill.arms.control]"), text.index("[evaluate]")
    text = text[: control[0]] + text[control[1] :]
    models = f'reference = "{copied}/run/sft/model"\nreference_teacher = "{copied}/models/teacher"'
    recipe.write_text(text.replace("[prompts]", f"{models}\n[prompts]"))
    command = ["run", str(recipe), "--out", str(tmp_path / "r"), *QUICK]
    assert run(command) == 0
    capsys.readouterr()
    assert run(["status", str(tmp_path / "r"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["teacher_consistency"] == "declared"
    assert "teach" not in {stage["name"] for stage in result["stages"]}
    other = recipe.read_text().replace(
        'models/teacher"\n[prompts]', 'models/other_teacher"\n[prompts]'
    )
    recipe.write_text(other)
    assert run([*command[:3], str(tmp_path / "r2"), *QUICK]) == 1
    assert "is not the teacher" in capsys.readouterr().err


def test_another_task_and_prompt_file_run_through_the_same_recipe(tmp_path):
    """The task has letters instead of sums, a plain template, the exact grader, several samples."""
    recipe = write_small_recipe(tmp_path)
    rows = [{"q": f"{a}{b}", "a": a} for a in "abcdefgh" for b in "ijklmnop"]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    file = f'file = "{tmp_path}/own.jsonl", prompt_field = "q"'
    problems = f'[{{name="divergence", grader="exact", samples_per_prompt=3, max_new_tokens=16, problems={{{file}, answer_field="a", limit=5}}}}]'  # noqa: E501
    flags = [
        f"--prompts.sft={{{file}, limit=20}}",
        f"--prompts.opd={{{file}, skip=20}}",
        '--template={kind="plain", plain="say {prompt}:"}',
        "--teach.max-new-tokens=16",
        "--rollout.max-new-tokens=16",
        "--sft.keep-truncated=true",
        "--evaluate.kl-prompts=2",
        f"--evaluate.benchmarks={problems}",
    ]
    assert run(["run", str(recipe), "--out", str(tmp_path / "r"), *flags]) == 0
    (row, *_) = open_store(tmp_path / "r/evaluate/teacher/samples/divergence")
    assert len(row["prompt_ids"]) == len("say ai:")


def test_scores_are_at_temperature_one_however_rollouts_were_sampled(tmp_path):
    """Sampling at T 0.7 and top-p 0.9 changes the sampler's log-probs, and not the reference's."""
    recipe = write_small_recipe(tmp_path)
    flags = ["--rollout.temperature", "0.7", "--rollout.top-p", "0.9", *QUICK]
    assert run(["run", str(recipe), "--out", str(tmp_path / "r"), *flags]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "r/sft/model").double()
    rollouts, scores = open_store(tmp_path / "r/rollout"), open_store(tmp_path / "r/score")
    for index in (0, 9, 17):
        ids = [*rollouts[index]["prompt_ids"], *rollouts[index]["completion_ids"]]
        first = len(rollouts[index]["prompt_ids"])
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, first - 1 : -1]
        rows, tokens = range(len(logits)), ids[first:]
        plain = logits.log_softmax(-1)[rows, tokens].numpy()
        np.testing.assert_allclose(scores[index]["logp_reference"], plain, atol=2e-4)
        p = (logits / 0.7).softmax(-1)
        above = (p * (p > p[rows, tokens][:, None])).sum(-1)  # mass of likelier tokens
        assert (above < 0.9).all()  # each token was inside the nucleus
        order = p.sort(-1, descending=True).values
        kept = (order * (order.cumsum(-1) - order < 0.9)).sum(-1)
        tempered = (p[rows, tokens] / kept).log().numpy()
        np.testing.assert_allclose(rollouts[index]["logp_sampler"], tempered, atol=2e-4)


def test_text_the_tokenizer_does_not_know_is_counted_and_said(tmp_path, caplog):
    recipe = write_small_recipe(tmp_path)
    rows = [{"prompt": f"{i}+1="} for i in range(9)] + [{"prompt": "é+<eos>="}]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    flags = ["--prompts.opd", f'{{file = "{tmp_path}/own.jsonl"}}', "--prompts.heldout", "2"]
    command = ["run", str(recipe), "--out", str(tmp_path / "r"), "--until", "prompts"]
    assert run([*command, *flags, "--evaluate.kl-prompts", "0"]) == 0
    assert "1 of 34 prompts hold characters" in caplog.text
    record = json.loads((tmp_path / "r/prompts/record.json").read_text())
    assert record["counts"]["with_unknown_tokens"] == 1


def test_a_teacher_with_a_padded_embedding_runs_through(tmp_path):
    """With 64 embeddings for 48 tokens, ids above the common vocabulary are not used."""
    recipe = write_small_recipe(tmp_path)
    folder = tmp_path / "models/teacher"
    teacher = AutoModelForCausalLM.from_pretrained(folder)
    teacher.resize_token_embeddings(64, mean_resizing=False)
    with torch.no_grad():
        teacher.get_input_embeddings().weight[48:] = teacher.get_input_embeddings().weight[5] * 1.1
    teacher.save_pretrained(folder)
    assert run(["run", str(recipe), "--out", str(tmp_path / "r")]) == 0
    for row in open_store(tmp_path / "r/score"):
        assert row["topk_ids"].max() < 48


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path, capsys):
    recipe = write_small_recipe(tmp_path)
    config = tmp_path / "models/base/config.json"
    config.write_text(config.read_text().replace('"vocab_size": 48', '"vocab_size": 40'))
    assert run(["run", str(recipe), "--out", str(tmp_path / "r")]) == 1
    assert "id 47 is outside the model's vocabulary of 40" in capsys.readouterr().err


def rewrite(folder, change) -> None:
    """Write the store's rows after ``change``, properly committed and sealed. Only their content is
    wrong, as if another program had written them."""
    rows = list(open_store(folder))
    change(rows)
    shutil.rmtree(folder)
    schema = COMPLETIONS if "finish_reason" in rows[0] else scores_schema(4)
    plan = make_plan(
        [r["prompt_id"] for r in rows], samples=1, rows_per_unit=99, seed=0, purpose=""
    )
    writer = open_writer(folder, schema, plan, origin="elsewhere")
    writer.commit(plan[0], rows, seconds=0.0)
    writer.seal()


BROKEN = {
    "nan": lambda v: np.where(np.arange(len(v)) == 1, np.nan, v),
    "a probability above one": lambda v: np.where(np.arange(len(v)) == 1, 0.5, v),
    "exactly 0": np.zeros_like,
    "-ln 48": lambda v: np.full_like(v, -np.log(48)),
}


@pytest.mark.parametrize("problem", BROKEN)
def test_training_refuses_scores_that_no_model_gives(copied, problem):
    from leyden.data.scored import open_pair

    def change(rows):
        rows[3]["logp_teacher"] = BROKEN[problem](rows[3]["logp_teacher"])

    rewrite(copied / "run/score", change)
    data = open_pair(
        open_store(copied / "run/rollout"),
        open_store(copied / "run/score"),
        split="opd",
        vocab_size=48,
    )
    data[2]
    with pytest.raises(AlignmentError, match=r"row 3 .*logp_teacher") as caught:
        data[3]
    assert problem in str(caught.value)


@pytest.mark.parametrize("column", ["teacher_topk_logp", "reference_topk_logp"])
@pytest.mark.parametrize("value", [0.0, np.nan, 0.5])
def test_training_refuses_top_k_that_no_model_gives(copied, column, value):
    from leyden.data.scored import open_pair

    def change(rows):
        rows[3][column] = np.full_like(rows[3][column], value)

    rewrite(copied / "run/score", change)
    pair = open_store(copied / "run/rollout"), open_store(copied / "run/score")
    data = open_pair(*pair, split="opd", vocab_size=48)
    with pytest.raises(AlignmentError, match=f"row 3 .*{column}"):
        data[3]


def test_scores_of_another_completion_and_foreign_ids_are_refused(copied):
    from leyden.data.scored import open_pair

    def swap(rows):
        rows[0]["completion_crc32"] += 1
        rows[1]["topk_ids"] = rows[1]["topk_ids"] + 48

    rewrite(copied / "run/score", swap)
    pair = open_store(copied / "run/rollout"), open_store(copied / "run/score")
    data = open_pair(*pair, split="opd", vocab_size=48)
    with pytest.raises(AlignmentError, match="another completion"):
        data[0]
    with pytest.raises(AlignmentError, match=r"topk_ids: id .* outside the vocabulary of 48"):
        data[1]


def test_resumed_scoring_notices_another_model(copied, monkeypatch):
    """The first stored unit is scored again with the model that is loaded now."""
    from leyden.stages.score import run_score

    graph = resolve(Run.open(copied / "run"))
    last = sorted((copied / "run/score/commits").iterdir())[-1]
    last.unlink()
    (copied / "run/score/SEALED.json").unlink()
    intent = graph.intent(SCORE)
    run_score(graph, intent)
    last.unlink()
    (copied / "run/score/SEALED.json").unlink()
    other = lambda spec: TransformersEngine(replace(spec, model=str(MODELS / "base")))  # noqa: E731
    graph = resolve(replace(graph.run, open_engine=other))
    with pytest.raises(ConsistencyError, match="so it runs another model"):
        run_score(graph, intent)
    shutil.rmtree(copied / "run/score/hands")  # of a store that an earlier version began
    with pytest.raises(ConsistencyError, match="the rows of its first unit now score"):
        run_score(graph, intent)


def test_bfloat16_scoring_resumes_to_the_same_bytes(copied, monkeypatch):
    """The first unit is scored again in its own batches, so nothing but the model can differ."""
    monkeypatch.setitem(SAME_MODEL, "bfloat16", 0.0)
    command = ["run", str(copied / "small.toml"), "--out", str(copied / "run")]
    command += ["--execution.dtype", "bfloat16", "--execution.batch-tokens", "300"]
    command += ["--execution.rows-per-unit", "16", "--until", "score"]
    assert run([*command, "--redo", "score"]) == 0
    folder = copied / "run/score"
    whole = {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}
    assert len(whole) > 1
    last = sorted((folder / "commits").iterdir())[-1]
    for path in (last, folder / "record.json", folder / "SEALED.json"):
        path.unlink()
    assert run(command) == 0
    assert {path.name: path.read_bytes() for path in (folder / "shards").iterdir()} == whole


def test_every_user_error_has_a_hint():
    with pytest.raises(TypeError):
        LeydenError("no hint")  # pyrefly: ignore[missing-argument]


def test_fewer_of_the_stored_ids_are_the_scores_of_a_smaller_k(copied):
    """top_k = 2 of a store with k = 4 gives the ids, log-probs and tails of scoring with k = 2."""
    rollouts, scores = open_store(copied / "run/rollout"), open_store(copied / "run/score")
    cut = open_pair(rollouts, scores, split="opd", vocab_size=48, top_k=2)
    run_ = Run.open(copied / "run")
    teacher, reference = (
        open_reference(run_.spec("reference", model, 48)) for model in (TEACHER, REFERENCE)
    )
    for i in (0, 5):
        s, columns = sequence_of(rollouts[cut.rows[i]]), columns_of(cut[i])
        assert columns.reference is not None and columns.topk_ids is not None
        request = ScoreRequest(s.prompt_ids, s.completion_ids, top_k=2)
        (by_teacher,) = all_results(teacher.score([request]), 1)
        agree(columns.teacher, columns.topk_ids, by_teacher)
        request = ScoreRequest(s.prompt_ids, s.completion_ids, at_ids=columns.topk_ids)
        (by_reference,) = all_results(reference.score([request]), 1)
        agree(columns.reference, columns.topk_ids, by_reference)


def agree(stored: ModelScores, ids: np.ndarray, scores: TokenScores) -> None:
    """Assert that the stored columns are those of a new scoring."""
    top_k = scores.top_k
    assert top_k is not None and stored.topk_logp is not None and stored.tail_logp is not None
    np.testing.assert_array_equal(ids, top_k.ids)
    np.testing.assert_allclose(stored.topk_logp, top_k.logp, atol=1e-5)
    np.testing.assert_allclose(np.exp(stored.tail_logp), np.exp(top_k.tail), atol=1e-6)


@pytest.mark.parametrize("rate", ["1e3", "3e-1"])
def test_a_ruined_student_stops_the_run_where_it_was_ruined(copied, capsys, rate):
    command = ["run", str(copied / "small.toml"), "--out", str(copied / "run")]
    command += ["--redo", "sft", "--sft.learning-rate", rate]
    assert run(command) == 1
    error = capsys.readouterr().err
    assert "sft: training ruined the model: its loss" in error or "the gradient of step" in error
    assert "learning rate" in error or "learning_rate" in error
    assert not (copied / "run/sft/record.json").exists()
    assert not (copied / "run/rollout").exists()


def metrics_file(folder, *lines):
    path = folder / "sft" / "metrics.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    for step, split, loss in lines:
        append_metrics(
            path, {"step": step, "split": split, "loss": 1.0, "token_loss": loss, "tokens": 5}
        )
    return path


HELPED = [(0, "heldout", 1.0), (1, "train", 1.1), (9, "heldout", 0.7)]


def test_the_end_of_training_is_judged_by_the_loss_per_token(tmp_path, caplog):
    sft, arm = Sft(), Objective()
    check_outcome(metrics_file(tmp_path, *HELPED), sft, 9)
    assert not caplog.records
    check_outcome(metrics_file(tmp_path, *HELPED[:2], (9, "heldout", 1.01)), sft, 9)
    assert "training has not helped: its loss went from 1 to 1.01" in caplog.text
    for loss in (2.1, math.nan, math.inf):
        with pytest.raises(EngineError, match="ruined the model"):
            check_outcome(metrics_file(tmp_path, *HELPED[:2], (9, "heldout", loss)), sft, 9)
    with pytest.raises(EngineError, match="its loss went from 1 to nan"):
        check_outcome(metrics_file(tmp_path, *HELPED[:2], (9, "heldout", math.nan)), arm, 9)
    check_outcome(metrics_file(tmp_path, *HELPED[:2], (9, "heldout", 2.1)), arm, 9)
    kept = metrics_file(tmp_path, *HELPED, (20, "heldout", 9.0))
    check_outcome(kept, sft, 9)  # patience has kept the model of step 9
    trained = metrics_file(tmp_path, *((step, "train", 1.0 + step) for step in range(1, 21)))
    with pytest.raises(EngineError, match=r"from 2 to 20\.5 nats per token on the answers that it"):
        check_outcome(trained, sft, 20)


def test_a_batch_of_far_more_rows_than_there_are_is_warned_of(tmp_path, caplog):
    warn_of_repeats(tmp_path, 32, 16)
    assert not caplog.records
    warn_of_repeats(tmp_path, 256, 20)
    assert "batch_size = 256 with 20 rows: every step trains on each row 13 times" in caplog.text
