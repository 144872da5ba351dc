"""Leases keep workers from doing a unit twice; commits alone make a store right."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_store import rows_of, units

from leyden.store import claim
from leyden.store.claim import LEASES, Hand, committed_names, forget_leases, taken_by
from leyden.store.reader import open_store
from leyden.store.schema import COMPLETIONS
from leyden.store.unit import commit_path
from leyden.store.writer import open_writer


def lease(folder, unit):
    return folder / LEASES / f"{unit.name}.json"


def test_one_hand_has_a_unit_until_it_gives_it_back(tmp_path):
    (unit, *_), first, second = units(), Hand(tmp_path), Hand(tmp_path)
    assert first.take(unit) and not second.take(unit)
    first.release(unit.name)
    assert second.take(unit)
    first.release(unit.name)  # it is not the first's any more
    assert lease(tmp_path, unit).exists()


def test_hands_that_come_at_once_get_different_units(tmp_path):
    plan = units(rows=60, per_unit=1)
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: [u.name for u in taken_by(Hand(tmp_path), plan)], range(8)))
    assert sorted(name for names in taken for name in names) == [unit.name for unit in plan]


def test_a_committed_unit_is_not_taken(tmp_path):
    plan = units()
    writer = open_writer(tmp_path, COMPLETIONS, plan, origin="o")
    writer.commit(plan[0], rows_of(plan[0]), seconds=0.0)
    assert not Hand(tmp_path).take(plan[0]) and committed_names(tmp_path) == {plan[0].name}
    assert not lease(tmp_path, plan[0]).exists()


def test_the_lease_of_a_process_that_has_ended_here_is_taken_over_at_once(tmp_path):
    unit = units()[0]
    code = f"""
from pathlib import Path
from leyden.store.claim import Hand
from leyden.store.plan import PlanRows, Unit
import os
assert Hand(Path({str(tmp_path)!r})).take(Unit({unit.name!r}, PlanRows.of([("p", 0, 0)])))
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert lease(tmp_path, unit).exists() and Hand(tmp_path).take(unit)


@pytest.mark.parametrize(("age", "taken"), [(claim.STALE_SECONDS + 5, True), (5, False)])
def test_the_lease_of_another_machine_is_taken_over_when_nobody_touches_it(tmp_path, age, taken):
    unit, path = units()[0], lease(tmp_path, units()[0])
    path.parent.mkdir()
    path.write_text(json.dumps({"hand": "other", "place": "elsewhere", "pid": 1, "host": "far"}))
    os.utime(path, (time.time() - age,) * 2)
    assert Hand(tmp_path).take(unit) == taken


def test_a_lease_that_was_cut_off_while_it_was_written_goes_by_its_age(tmp_path):
    unit, path = units()[0], lease(tmp_path, units()[0])
    path.parent.mkdir()
    path.write_text("")
    assert not Hand(tmp_path).take(unit)
    os.utime(path, (0, 0))
    assert Hand(tmp_path).take(unit)


def test_a_hand_touches_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "TOUCH_SECONDS", 0.05)
    unit = units()[0]
    with Hand(tmp_path) as hand:
        assert hand.take(unit)
        os.utime(lease(tmp_path, unit), (0, 0))
        time.sleep(0.3)
        assert lease(tmp_path, unit).stat().st_mtime > 0
    assert not lease(tmp_path, unit).exists()


def test_leases_are_swept_and_other_files_stay(tmp_path):
    unit = units()[0]
    assert Hand(tmp_path).take(unit)
    other = tmp_path / LEASES / "mine.txt"
    other.write_text("mine")
    forget_leases(tmp_path)
    assert [p.name for p in (tmp_path / LEASES).iterdir()] == ["mine.txt"]


def test_a_thousand_races_give_one_commit_a_unit(tmp_path):
    """Without any lease: four workers make the same units at the same moment."""
    plan, seals = units(rows=4, per_unit=1), []
    for race in range(250):
        folder = tmp_path / f"{race}"
        writer = open_writer(folder, COMPLETIONS, plan, origin="o")
        start = threading.Barrier(4)

        def work(number: int, writer=writer, start=start) -> None:
            start.wait()
            for unit in plan[number:] + plan[:number]:
                writer.commit(unit, rows_of(unit), seconds=float(number))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert committed_names(folder) == {unit.name for unit in plan}
        sealed = writer.seal()
        assert sorted(p.name for p in (folder / "shards").iterdir()) == sorted(
            f"{name}-{json.loads(commit_path(folder, name).read_text())['sha256'][:16]}.arrow"
            for name in committed_names(folder)
        )
        seals.append(sealed)
        assert sealed == seals[0] and len(open_store(folder)) == 4
