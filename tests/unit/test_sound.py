"""The check of a whole shard passes only what the check of every row passes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.data.scored import check_score_row
from leyden.data.sound import scores_are_sound
from leyden.errors import AlignmentError
from leyden.store.shard import Columns, Lists

VOCAB, K = 50, 3


def score(rng, length: int, certain: bool) -> dict[str, np.ndarray]:
    """A row that two models could give, with its top k; perhaps of a certain token."""
    logits = rng.normal(size=(2, length, VOCAB)) * 2
    if certain and length:
        logits[:, 0, 7] = 99
    logp = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)
    ids = np.argsort(-logp[0], axis=-1)[:, :K]
    row = {"topk_ids": ids.ravel().astype(np.int32)}
    for model, values in zip(("teacher", "reference"), logp, strict=True):
        mass = np.exp(values.astype(np.float64))
        row[f"logp_{model}"] = values[:, 7]
        row[f"{model}_entropy"] = -(mass * np.maximum(values, -99)).sum(-1).astype(np.float16)
        inside = np.take_along_axis(mass, ids, -1).sum(-1)
        row[f"{model}_topk_logp"] = np.take_along_axis(values, ids, -1).ravel()
        row[f"{model}_tail_logp"] = np.log(np.maximum(1 - inside, 1e-12)).astype(np.float32)
    return row


def columns_of(rows) -> Columns:
    return {
        name: Lists(
            np.concatenate([row[name] for row in rows]),
            np.cumsum([0, *(len(row[name]) for row in rows)]).tolist(),
        )
        for name in rows[0]
    }


def rows_pass(rows, lengths) -> bool:
    try:
        for row, length in zip(rows, lengths, strict=True):
            check_score_row(row, num_tokens=length, vocab_size=VOCAB, where="row")
    except AlignmentError:
        return False
    return True


FAULTS = {
    "nothing": lambda row: None,
    "nan": lambda row: row["logp_teacher"].__setitem__(0, np.nan),
    "above zero": lambda row: row["logp_reference"].__setitem__(-1, 0.01),
    "missing": lambda row: row["logp_teacher"].fill(0),
    "no weights": lambda row: row["logp_reference"].fill(-math.log(VOCAB)),
    "foreign id": lambda row: row["topk_ids"].__setitem__(0, VOCAB),
    "negative id": lambda row: row["topk_ids"].__setitem__(-1, -1),
    "mass": lambda row: row["teacher_tail_logp"].__setitem__(0, -0.01),
    "infinite": lambda row: row["reference_topk_logp"].__setitem__(0, -np.inf),
    "short": lambda row: row.update(logp_teacher=row["logp_teacher"][:-1]),
    "short top k": lambda row: row.update(topk_ids=row["topk_ids"][:-1]),
    "long tail": lambda row: row.update(
        reference_tail_logp=np.append(row["reference_tail_logp"], np.float32(-1))
    ),
}


@given(
    seed=st.integers(0, 9999),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    certain=st.booleans(),
    left_out=st.sampled_from(["", "_entropy", "_topk_logp"]),
    data=st.data(),
)
@settings(deadline=None, max_examples=150)
def test_a_shard_that_passes_holds_no_row_that_does_not(seed, lengths, certain, left_out, data):
    rng = np.random.default_rng(seed)
    rows = [score(rng, length, certain) for length in lengths]
    FAULTS[data.draw(st.sampled_from(sorted(FAULTS)))](
        rows[data.draw(st.integers(0, len(rows) - 1))]
    )
    if left_out == "_topk_logp":
        rows = [
            {k: v for k, v in row.items() if "top" not in k and "tail" not in k} for row in rows
        ]
    elif left_out:
        rows = [{k: v for k, v in row.items() if left_out not in k} for row in rows]
    passed = scores_are_sound(columns_of(rows), np.array(lengths), VOCAB)
    assert rows_pass(rows, lengths) or not passed


@pytest.mark.parametrize("certain", [True, False])
def test_a_sound_shard_passes(certain):
    rng = np.random.default_rng(3)
    lengths = [4, 1, 6]
    rows = [score(rng, length, certain) for length in lengths]
    assert rows_pass(rows, lengths)
    assert scores_are_sound(columns_of(rows), np.array(lengths), VOCAB)


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "nothing"])
def test_every_fault_is_seen_in_a_shard(fault):
    rng = np.random.default_rng(5)
    lengths = [4, 5, 6]
    rows = [score(rng, length, False) for length in lengths]
    FAULTS[fault](rows[1])
    assert not scores_are_sound(columns_of(rows), np.array(lengths), VOCAB)
