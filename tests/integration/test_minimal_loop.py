"""examples/minimal_loop.py gives the same losses as the package on the same batches."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import MODELS, ROOT, module_at
from leyden.data.completions import select_completions
from leyden.data.scored import open_pair
from leyden.models.load import load_model
from leyden.recipe.schema import Execution
from leyden.recipe.training import Objective, Sft
from leyden.store.reader import open_store
from leyden.telemetry.metrics import read_metrics
from leyden.train.loop import Training
from leyden.train.student import StudentLM

PATH = ROOT / "examples" / "minimal_loop.py"


@pytest.fixture(scope="module")
def page():
    return module_at(PATH)


def real_losses(folder, start, data, settings) -> list[float]:
    """Losses of three real optimizer steps."""
    model = load_model(start, device="cpu", dtype="float32")
    Training(
        data=data,
        heldout=[],
        settings=settings,
        seed=4,
        folder=folder,
        execution=Execution(),
    ).run(StudentLM(model, chunk=64))
    return [m["loss"] for m in read_metrics(folder / "metrics.jsonl") if m["split"] == "train"]


def page_losses(page, start, data, settings, token_loss) -> list[float]:
    """Losses of the same three steps by the functions of the example."""
    from leyden.data.batches import rows_of_step

    model = AutoModelForCausalLM.from_pretrained(start)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
    )
    result = []
    for step in range(settings.steps):
        rows = rows_of_step(step, batch_size=settings.batch_size, num_rows=len(data), seed=4)
        rollouts = [rollout_of(page, data[row]) for row in rows]
        per_sequence = settings.reduction == "sequence_mean"
        loss = page.batch_loss(model, rollouts, token_loss, per_sequence=per_sequence)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        result.append(loss.item())
    return result


def rollout_of(page, sequence):
    ids = torch.from_numpy(np.concatenate([sequence.prompt_ids, sequence.completion_ids])).long()
    if sequence.columns is None:
        return page.Rollout(ids, len(sequence.prompt_ids))
    columns = sequence.columns.map(torch.tensor)
    return page.Scored(
        ids,
        len(sequence.prompt_ids),
        teacher_logp_C=columns.teacher.logp,
        topk_ids_CK=columns.topk_ids,
        topk_logp_CK=columns.teacher.topk_logp,
        tail_logp_C=columns.teacher.tail_logp,
    )


@pytest.mark.parametrize("objective", ["sampled", "topk_tail"])
def test_distillation_losses_agree(page, finished, tmp_path, objective):
    run = finished / "run"
    data = open_pair(
        open_store(run / "rollout"), open_store(run / "score"), split="opd", vocab_size=48
    )
    settings = Objective(objective=objective, steps=3, batch_size=8, learning_rate=1e-4)
    real = real_losses(tmp_path, run / "sft/model", data, settings)
    token_loss = getattr(page, f"{objective}_loss")
    mine = page_losses(page, run / "sft/model", data, settings, token_loss)
    np.testing.assert_allclose(mine, real, rtol=2e-4)


def test_sft_losses_agree(page, finished, tmp_path):
    data = select_completions(open_store(finished / "run/teach"), "sft", vocab_size=48)
    settings = Sft(steps=3, batch_size=8, learning_rate=3e-4, schedule="constant")
    real = real_losses(tmp_path, MODELS / "base", data, settings)
    mine = page_losses(page, MODELS / "base", data, settings, page.sft_loss)
    np.testing.assert_allclose(mine, real, rtol=2e-4)


def test_stored_scores_are_what_the_page_would_store(page, finished):
    teacher = AutoModelForCausalLM.from_pretrained(finished / "models/teacher")
    run = finished / "run"
    data = open_pair(
        open_store(run / "rollout"), open_store(run / "score"), split="opd", vocab_size=48
    )
    for index in (0, 11):
        stored = rollout_of(page, data[index])
        mine = page.score(teacher, stored, top_k=4)
        for name in ("teacher_logp_C", "topk_logp_CK", "tail_logp_C"):
            torch.testing.assert_close(
                getattr(mine, name), getattr(stored, name), atol=2e-4, rtol=1e-4
            )


def test_the_page_runs_and_fits_on_a_page():
    assert len(PATH.read_text().splitlines()) <= 200
    assert "leyden." not in PATH.read_text().split('"""', 2)[2]
    command = [sys.executable, str(PATH), str(MODELS / "teacher"), str(MODELS / "base")]
    done = subprocess.run(
        [*command, "--prompts", "4", "--steps", "2"], capture_output=True, text=True, check=True
    )
    assert "topk_tail_loss step   2" in done.stdout
