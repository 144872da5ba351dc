"""Stored completions become training sequences: ids as sampled, truncated ones dropped."""

import numpy as np
import pytest

from leyden.data.batches import collate
from leyden.data.completions import select_completions
from leyden.data.prompt_set import RenderedPrompt, read_prompt_set, write_prompt_set
from leyden.errors import AlignmentError, StoreError
from leyden.store.plan import make_plan
from leyden.store.reader import open_store
from leyden.store.schema import COMPLETIONS
from leyden.store.writer import open_writer

# <pad> <unk> <bos> in the middle: text would lose them, or spell them with other ids
COMPLETIONS_STORED = [([5, 0, 3, 2, 1], "stop"), ([7, 7, 7], "length"), ([9, 1], "stop")]


@pytest.fixture
def store(tmp_path):
    plan = make_plan(
        [f"sft/{i}" for i in range(3)], samples=1, rows_per_unit=9, seed=0, purpose="t"
    )
    rows = [
        {
            "prompt_id": planned.prompt_id,
            "sample": 0,
            "split": "sft",
            "prompt_ids": [4, 5],
            "completion_ids": ids,
            "logp_sampler": np.zeros(len(ids)),
            "finish_reason": reason,
        }
        for planned, (ids, reason) in zip(plan[0].rows, COMPLETIONS_STORED, strict=True)
    ]
    writer = open_writer(tmp_path / "teach", COMPLETIONS, plan, origin="o")
    writer.commit(plan[0], rows, seconds=0.0)
    writer.seal()
    return open_store(tmp_path / "teach")


def test_truncated_answers_are_dropped_and_counted(store):
    answers = select_completions(store, "sft", vocab_size=48)
    assert (len(answers), answers.num_dropped) == (2, 1)
    kept = select_completions(store, "sft", vocab_size=48, keep_truncated=True)
    assert (len(kept), kept.num_dropped) == (3, 0)


def test_ids_reach_training_exactly_as_sampled(store):
    answers = select_completions(store, "sft", vocab_size=48)
    batch = collate([answers[0], answers[1]])
    assert batch.target_N.tolist() == [5, 0, 3, 2, 1, 9, 1]


def test_an_id_outside_the_vocabulary_is_named_with_its_row(store):
    answers = select_completions(store, "sft", vocab_size=9)
    answers[0]
    with pytest.raises(AlignmentError, match="row 2, completion_ids: id 9 is outside"):
        answers[1]


def test_a_split_without_a_finished_answer_is_refused(tmp_path, store):
    row = next(r for r in store if r["finish_reason"] == "length")
    plan = make_plan(["sft/1"], samples=1, rows_per_unit=1, seed=0, purpose="t")
    writer = open_writer(tmp_path / "cut", COMPLETIONS, plan, origin="o")
    writer.commit(plan[0], [row], seconds=0.0)
    writer.seal()
    with pytest.raises(StoreError, match="all 1 completions of sft were cut"):
        select_completions(open_store(tmp_path / "cut"), "sft", vocab_size=48)


def test_a_heldout_split_may_have_no_finished_answer(tmp_path, store):
    row = next(r for r in store if r["finish_reason"] == "length") | {"split": "heldout"}
    plan = make_plan(["sft/1"], samples=1, rows_per_unit=1, seed=0, purpose="t")
    writer = open_writer(tmp_path / "cut", COMPLETIONS, plan, origin="o")
    writer.commit(plan[0], [row], seconds=0.0)
    writer.seal()
    result = select_completions(open_store(tmp_path / "cut"), "heldout", vocab_size=48)
    assert (len(result), result.num_dropped) == (0, 1)


def test_rendered_prompts_that_changed_are_refused(tmp_path):
    prompt = RenderedPrompt("sft/0", "sft", (4, 5), "1+", None, {})
    file = tmp_path / "rendered.jsonl"
    digest = write_prompt_set(tmp_path, [prompt])
    assert read_prompt_set(tmp_path, expected=digest) == {"sft/0": prompt}
    file.write_text(file.read_text().replace("[4, 5]", "[4, 6]"))
    with pytest.raises(StoreError, match="rendered prompts changed"):
        read_prompt_set(tmp_path, expected=digest)
