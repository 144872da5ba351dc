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

from leyden.errors import StoreError
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


@pytest.mark.parametrize("pid", ['"abc"', "null", "100000000000000000000", "-1"])
def test_a_lease_that_says_nonsense_goes_by_its_age(tmp_path, pid):
    unit, path = units()[0], lease(tmp_path, units()[0])
    path.parent.mkdir()
    place = json.dumps(claim.here()["place"])
    path.write_text(f'{{"hand": "x", "place": {place}, "pid": {pid}}}')
    assert not Hand(tmp_path).take(unit)
    for age in (claim.STALE_SECONDS + 5, -86400):  # also from a clock that was set back
        os.utime(path, (time.time() - age,) * 2)
        assert claim.are_held(tmp_path) is False
        hand = Hand(tmp_path)
        assert hand.take(unit)
        path.write_text(f'{{"hand": "x", "place": {place}, "pid": {pid}}}')


def test_a_lease_that_is_a_folder_is_nobodys_to_take(tmp_path):
    unit = units()[0]
    lease(tmp_path, unit).mkdir(parents=True)
    os.utime(lease(tmp_path, unit), (0, 0))
    assert Hand(tmp_path).take(unit) in (True, False)


def test_a_hand_does_not_touch_a_lease_that_was_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "TOUCH_SECONDS", 0.05)
    unit = units()[0]
    with Hand(tmp_path) as hand:
        assert hand.take(unit)
        lease(tmp_path, unit).write_text('{"hand": "other", "place": "far", "pid": 1}')
        os.utime(lease(tmp_path, unit), (0, 0))
        time.sleep(0.2)
        assert lease(tmp_path, unit).stat().st_mtime == 0


def test_a_link_in_place_of_the_leases_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / LEASES).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="leases"):
        open_writer(tmp_path / "store", COMPLETIONS, units(), origin="o")


def test_a_worker_of_a_store_that_was_begun_anew_commits_nothing(tmp_path):
    """The old store was moved away, under the worker's feet, by the command that made it again."""
    plan = units()
    old = open_writer(tmp_path / "store", COMPLETIONS, plan, origin="o")
    (tmp_path / "store").rename(tmp_path / "aside")
    open_writer(tmp_path / "store", COMPLETIONS, units(per_unit=2), origin="new")
    with pytest.raises(StoreError, match="was begun anew since this process opened it"):
        old.commit(plan[0], rows_of(plan[0]), seconds=0.0)
    assert not committed_names(tmp_path / "store")


def test_a_worker_that_is_late_for_the_seal_has_lost_nothing(tmp_path, monkeypatch):
    """Another commits its unit, seals the store and sweeps, before it can rename its own file."""
    plan = units()
    late = open_writer(tmp_path, COMPLETIONS, plan, origin="o")
    other = open_writer(tmp_path, COMPLETIONS, plan, origin="o")
    real = os.replace

    def slow(source, target):
        monkeypatch.undo()
        for unit in plan:
            other.commit(unit, rows_of(unit), seconds=0.0)
        other.seal()
        real(source, target)

    monkeypatch.setattr(os, "replace", slow)
    late.commit(plan[0], rows_of(plan[0]), seconds=0.0)
    assert len(open_store(tmp_path)) == sum(len(unit.rows) for unit in plan)


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
