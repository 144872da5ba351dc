"""Units are committed whole, in any order of results."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.engines.base import Completion, complement_tail
from leyden.errors import EngineError
from leyden.inference.fill import check_completion
from leyden.inference.units import whole_units
from leyden.store.plan import PlanRows, Unit


def units_of(sizes):
    return [
        Unit(f"{u:06d}", PlanRows.of((f"p{u}", row, 0) for row in range(size)))
        for u, size in enumerate(sizes)
    ]


sizes = st.lists(st.integers(1, 5), min_size=1, max_size=6)


@given(sizes=sizes, data=st.data())
def test_every_unit_comes_once_whole_and_in_row_order(sizes, data):
    units = units_of(sizes)
    asked = [(unit.name, row.sample) for unit in units for row in unit.rows]
    order = data.draw(st.permutations(range(len(asked))))
    given_out = []

    def answers():
        for index in order:
            given_out.append(index)
            yield index, asked[index]

    seen = []
    for unit, results in whole_units(units, answers()):
        assert results == [(unit.name, row.sample) for row in unit.rows]
        last = asked.index(results[-1]) - len(results) + 1
        assert given_out[-1] in range(last, last + len(results)), "not as soon as its last row came"
        seen.append(unit.name)
    assert sorted(seen) == [unit.name for unit in units]


@given(sizes=sizes, data=st.data())
def test_an_answer_too_many_or_too_few_is_refused(sizes, data):
    units, count = units_of(sizes), sum(sizes)
    order = list(data.draw(st.permutations(range(count))))
    place = data.draw(st.integers(0, count - 1))
    wrong = data.draw(st.sampled_from(["left out", "twice", "never asked"]))
    if wrong == "left out":
        del order[place]
    elif wrong == "twice":
        order.insert(place, order[place])
    else:
        order[place] = data.draw(st.sampled_from([-1, count, count + 7]))
    with pytest.raises(EngineError, match="the engine broke its contract"):
        list(whole_units(units, [(index, None) for index in order]))


CAP, STOP, SIZE = 4, 1, 48
SOUND = {
    "stopped": ([5, 6, STOP], [-0.1, -2.0, 0.0], "stop"),
    "cut at the cap": ([5, 6, 7, 8], [-0.1] * 4, "length"),
    "stopped at the cap": ([5, 6, 7, STOP], [-0.1] * 4, "stop"),
}
UNSOUND = {
    "no token": ([], [], "stop"),
    "too long": ([5] * 5, [-0.1] * 5, "length"),
    "too few log-probs": ([5, STOP], [-0.1], "stop"),
    "a log-prob that is not a number": ([5, STOP], [-0.1, np.nan], "stop"),
    "a probability above one": ([5, STOP], [-0.1, 0.5], "stop"),
    "an unknown id": ([5, SIZE, STOP], [-0.1] * 3, "stop"),
    "a negative id": ([-1, STOP], [-0.1] * 2, "stop"),
    "stopped without a stop token": ([5, 6], [-0.1] * 2, "stop"),
    "going on after a stop token": ([5, STOP, 6, STOP], [-0.1] * 4, "stop"),
    "cut before the cap": ([5, 6], [-0.1] * 2, "length"),
    "cut after a stop token": ([5, 6, 7, STOP], [-0.1] * 4, "length"),
    "another reason": ([5, STOP], [-0.1] * 2, "abort"),
}


def checked(ids, logp, reason) -> None:
    made = Completion(np.array(ids, np.int32), np.array(logp, np.float32), reason)
    check_completion(made, CAP, [STOP], vocab_size=SIZE, where="prompt p, sample 0")


@pytest.mark.parametrize("name", SOUND)
def test_a_completion_as_described_is_taken(name):
    checked(*SOUND[name])


@pytest.mark.parametrize("name", UNSOUND)
def test_a_completion_that_is_none_is_refused(name):
    with pytest.raises(EngineError, match="broke its contract: prompt p, sample 0: "):
        checked(*UNSOUND[name])


def test_the_tail_of_a_certain_engine_is_finite():
    """-inf would say that nothing is outside the K ids."""
    logp = np.log(np.array([[0.5, 0.25], [1.0, 1e-30]]))
    tail = complement_tail(logp)
    assert tail.dtype == np.float32 and np.isfinite(tail).all()
    assert tail[0] == pytest.approx(np.log(0.25)) and tail[1] < -15
