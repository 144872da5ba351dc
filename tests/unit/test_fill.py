"""Units are committed whole, in any order of results."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.errors import EngineError
from leyden.inference.fill import whole_units
from leyden.store.plan import PlanRow, Unit


def units_of(sizes):
    return [
        Unit(f"{u:06d}", tuple(PlanRow(f"p{u}", row, 0) for row in range(size)))
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
