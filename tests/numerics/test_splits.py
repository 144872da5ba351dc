"""No micro-batch split, padding, packing or order changes loss, gradients or metrics."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import gradients, random_model, random_sequences
from leyden.data.batches import collate, permutation, rows_of_step, split_by_tokens
from leyden.data.sequences import ModelScores, TeacherColumns, TokenSequence
from leyden.recipe.schema import Execution
from leyden.recipe.training import Objective
from leyden.telemetry.metrics import read_metrics
from leyden.train.loop import Training
from leyden.train.student import StudentLM

Layout = Literal["padded", "packed"]
REDUCTIONS = ["sequence_mean", "token_mean", "sequence_sum"]


def scored_sequences(count: int) -> list[TokenSequence]:
    rng = np.random.default_rng(9)
    result = []
    for s in random_sequences(count, seed=9):
        n = len(s.completion_ids)
        mass = np.log(rng.dirichlet(np.ones(5), n))
        columns: TeacherColumns[np.ndarray] = TeacherColumns(
            ModelScores(rng.normal(-2, 1, n), mass[:, :4], mass[:, 4]),
            ModelScores(rng.normal(-2, 1, n)),
            np.stack([rng.permutation(40)[:4] for _ in range(n)]),
        )
        result.append(TokenSequence(s.prompt_ids, s.completion_ids, columns))
    return result


def one_step(tmp_path, settings, *, budget=10_000, layout: Layout = "padded", order=None):
    """Metrics and gradients of one optimizer step on all sequences."""
    sequences = scored_sequences(9)
    order = range(9) if order is None else order
    model = random_model(6)
    training = Training(
        data=[sequences[i] for i in order],
        heldout=[],
        settings=settings,
        seed=0,
        folder=tmp_path,
        execution=Execution(batch_tokens=budget, layout=layout),
    )
    training.run(StudentLM(model, chunk=7))
    (metrics,) = read_metrics(tmp_path / "metrics.jsonl")
    return metrics, gradients(model)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("objective", ["sampled", "topk_tail", "sft"])
def test_no_split_padding_packing_or_order_changes_a_step(tmp_path, reduction, objective):
    arm = Objective(objective=objective, reduction=reduction, steps=1, batch_size=9, grad_clip=1e9)
    whole, expected = one_step(tmp_path / "whole", arm)
    ways: list[dict[str, Any]] = [
        {"budget": 1},
        {"budget": 45},
        {"budget": 45, "layout": "packed"},
        {"layout": "packed"},
        {"order": [4, 2, 8, 0, 1, 3, 7, 6, 5]},
    ]
    for number, way in enumerate(ways):
        metrics, result = one_step(tmp_path / str(number), arm, **way)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-7)
        for name, value in whole.items():
            if not isinstance(value, str):
                assert metrics[name] == pytest.approx(value, rel=1e-6, abs=1e-9), (way, name)


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40), budget=st.integers(1, 200))
@settings(deadline=None)
def test_micro_batches_hold_every_sequence_once_under_the_budget(lengths, budget):
    for layout in ("padded", "packed"):
        groups = split_by_tokens(lengths, budget=budget, layout=layout)
        assert sorted(i for g in groups for i in g) == list(range(len(lengths)))
        for group in groups:
            chosen = [lengths[i] for i in group]
            cost = max(chosen) * len(chosen) if layout == "padded" else sum(chosen)
            assert cost <= budget or len(group) == 1


@given(
    rows=st.integers(1, 50),
    batch=st.integers(1, 70),
    seed=st.integers(0, 99),
    steps=st.integers(1, 9),
)
@settings(deadline=None)
def test_steps_walk_through_epochs_of_permutations(rows, batch, seed, steps):
    seen = [
        r for s in range(steps) for r in rows_of_step(s, batch_size=batch, num_rows=rows, seed=seed)
    ]
    for epoch, start in enumerate(range(0, len(seen) - rows + 1, rows)):
        expected = permutation(rows, seed=seed, epoch=epoch).tolist()
        assert seen[start : start + rows] == expected
        assert sorted(expected) == list(range(rows))


@given(
    count=st.integers(1, 8), seed=st.integers(0, 99), layout=st.sampled_from(["padded", "packed"])
)
@settings(deadline=None)
def test_a_batch_points_at_the_position_before_each_token(count, seed, layout):
    sequences = random_sequences(count, seed)
    batch = collate(sequences, layout=layout)
    flat = batch.ids_BT.flatten()
    assert torch.equal(flat[batch.predict_N + 1], batch.target_N)
    n = 0
    for index, s in enumerate(sequences):
        for t, token in enumerate(s.completion_ids):
            assert batch.target_N[n] == token and batch.sequence_N[n] == index
            before = flat[batch.predict_N[n] - (len(s.prompt_ids) - 1 + t)]
            assert before == s.prompt_ids[0]
            n += 1
    assert n == len(batch.target_N)
