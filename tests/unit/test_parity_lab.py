"""The parity lab: its tasks grade what they generate, and its page follows from its results."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT

LAB = ROOT / "labs/parity"
LENGTHS = {"climb": (12, 54), "walk": (84, 140)}  # tokens with the stop token, as their modules say


@pytest.fixture(scope="module")
def lab():
    """The lab's modules; sys.path is restored afterwards."""
    before = list(sys.path)
    sys.path.insert(0, str(LAB))
    try:
        import arms
        import page_stats
        import page_tables
        import run
        import tasks

        yield {module.__name__: module for module in (arms, page_stats, page_tables, run, tasks)}
    finally:
        sys.path[:] = before


@pytest.mark.parametrize("name", LENGTHS)
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), style=st.sampled_from(["large", "small", "even"]))
def test_a_right_answer_is_right_and_a_changed_one_is_not(lab, name, seed, style):
    task, rng = lab["tasks"].TASKS[name], np.random.default_rng(seed)
    prompt = task.make_prompt(rng)
    pieces = list(task.answer(rng, prompt, style, 0.0))
    answer = "".join(c for c, _ in pieces)
    assert not any(slipped for _, slipped in pieces)
    assert LENGTHS[name][0] <= len(answer) + 1 <= LENGTHS[name][1] <= task.max_new_tokens
    assert set(prompt + answer) <= set(lab["tasks"].CHARACTERS)
    assert task.grade(prompt, answer)
    place = int(rng.integers(len(answer)))
    other = str(rng.choice([c for c in lab["tasks"].CHARACTERS if c != answer[place]]))
    assert not task.grade(prompt, answer[:place] + other + answer[place + 1 :])
    assert not task.grade(prompt, answer[:-1])
    assert not task.grade(prompt, answer + "," + answer[-5:])


@pytest.mark.parametrize("name", LENGTHS)
def test_wrong_answers_hold_a_marked_slip(lab, name):
    """Nearly all marked answers are wrong; a miscount of ``climb`` may be right by chance."""
    task, rng, harmless = lab["tasks"].TASKS[name], np.random.default_rng(0), 0
    for _ in range(200):
        prompt = task.make_prompt(rng)
        pieces = list(task.answer(rng, prompt, "even", 0.1))
        right, slipped = (
            task.grade(prompt, "".join(c for c, _ in pieces)),
            any(s for _, s in pieces),
        )
        assert right or slipped
        harmless += right and slipped
    assert harmless <= 10


def test_the_stop_token_alone_is_what_eos_unscored_leaves_out(lab):
    from leyden.data.sequences import ModelScores, TeacherColumns, TokenSequence

    ids = np.array([5, 6, 1], dtype=np.int32)
    whole = TokenSequence(ids[:1], ids, TeacherColumns(ModelScores(np.zeros(3))))
    cut = lab["arms"].WithoutStop([whole])[0]
    assert cut.completion_ids.tolist() == [5, 6]
    assert len(cut.columns.teacher.logp) == 2


def test_intervals_of_eight_seeds_cover_what_they_say(lab):
    """The plain percentile bootstrap of 8 normal values covers 89%."""
    rng, inside, draws = np.random.default_rng(1), 0, 400
    for _ in range(draws):
        low, high = (
            float(v)
            for v in lab["page_stats"].paired(rng.normal(size=8)).split("[")[1][:-1].split(",")
        )
        inside += low <= 0 <= high
    assert 0.92 <= inside / draws <= 0.98


def test_the_page_is_what_the_results_say(lab):
    results = LAB / "results"
    page = lab["page_tables"].page(results, ["climb", "walk"], [901, 902])
    assert page == (LAB / "README.md").read_text()
    made_by = {json.loads(path.read_text())["made_by"] for path in results.glob("*.json")}
    assert made_by == {lab["run"].sources()}
