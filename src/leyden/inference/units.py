"""Have the units of a store made: requests over all pending ones, a commit when one is whole.

Several workers may fill one store. Each takes a lease on a unit when its engine asks for the unit's
first row, so that an engine with room for many rows holds as many units as it works on.
"""

import logging
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

from leyden.engines.base import Failed
from leyden.errors import EngineError
from leyden.store.claim import Hand, taken_by
from leyden.store.plan import Unit
from leyden.store.writer import StoreWriter

T = TypeVar("T")
Advance = Callable[[int], None]
"""Told how many more rows are done."""
Answer = Callable[[Iterator[tuple[int, Unit]]], Iterable[tuple[int, T | Failed]]]
"""Given units, each with a number, as the engine asks for them: (number of the row, result)."""
LOOK_SECONDS = (0.05, 2.0)  # shortest and longest pause between looks at what others work on


def fill_units(
    writer: StoreWriter,
    answer: Answer[T],
    rows: Callable[[Unit, Sequence[T]], list[dict[str, Any]]],
    *,
    load: Callable[[], None],
    mine: Sequence[Unit] | None,
    advance: Advance,
    devices: int = 1,
) -> None:
    """Make every pending unit (of ``mine``) that no other worker makes, and wait for the others.
    A second on the clock counts once for each of the ``devices`` of the engine.

    Raises EngineError at the end where units had to be left out.
    """
    counted: set[str] = set()
    parked: dict[str, str] = {}
    pause, loaded, looked = LOOK_SECONDS[0], False, time.monotonic()
    with Hand(writer.folder) as hand:
        while waiting := _pending(writer, mine, parked, counted, advance):
            units = taken_by(hand, waiting)
            first = next(units, None)
            if first is None:  # others work on all of them, or have ended without a word
                time.sleep(pause)
                pause = min(2 * pause, LOOK_SECONDS[1])
                continue
            if not loaded:
                load()
                loaded, pause = True, LOOK_SECONDS[0]
            asked: list[Unit] = []
            results = answer(_numbered(chain([first], units), asked))
            began = time.monotonic()
            for unit, made in whole_units(asked, _told(results, advance)):
                counted.add(unit.name)
                if why := next((m.why for m in made if isinstance(m, Failed)), None):
                    _park(parked, unit, why, writer)
                else:
                    seconds = devices * (time.monotonic() - began)
                    writer.commit(
                        unit,
                        rows(unit, [m for m in made if not isinstance(m, Failed)]),
                        seconds=seconds,
                    )
                hand.release(unit.name)
                if time.monotonic() - looked > LOOK_SECONDS[1]:  # others went on meanwhile
                    _pending(writer, mine, parked, counted, advance)
                    looked = time.monotonic()
                began = time.monotonic()  # writing is not the device's time
    if parked:
        name, why = min(parked.items())
        raise EngineError(
            f"{writer.folder}: {len(parked)} of {len(writer.units)} units were left out, first "
            f"{name}: {why}",
            hint="all others are committed; run the command again to try these once more",
        )


def _park(parked: dict[str, str], unit: Unit, why: str, writer: StoreWriter) -> None:
    parked[unit.name] = why
    log = logging.getLogger(__name__)
    log.warning("%s: unit %s is left out for now: %s", writer.folder, unit.name, why)


def _pending(
    writer: StoreWriter,
    mine: Sequence[Unit] | None,
    parked: Mapping[str, str],
    counted: set[str],
    advance: Advance,
) -> list[Unit]:
    """The units (of ``mine``) without a commit that are not left out. ``advance`` is told of the
    rows of those that others have committed since."""
    units = writer.units if mine is None else mine
    pending = {unit.name for unit in writer.pending()}
    for unit in units:
        if unit.name not in pending and unit.name not in counted:
            counted.add(unit.name)
            advance(len(unit.rows))
    return [unit for unit in units if unit.name in pending and unit.name not in parked]


def _numbered(units: Iterable[Unit], asked: list[Unit]) -> Iterator[tuple[int, Unit]]:
    """Units with their numbers. ``asked`` grows as they are asked for."""
    for unit in units:
        asked.append(unit)
        yield len(asked) - 1, unit


def _told(results: Iterable[tuple[int, T]], advance: Advance) -> Iterator[tuple[int, T]]:
    """``results`` as they come; ``advance`` is told of each."""
    for result in results:
        advance(1)
        yield result


def whole_units(
    units: Sequence[Unit], results: Iterable[tuple[int, T]]
) -> Iterator[tuple[Unit, list[T]]]:
    """Each unit with the results of its rows, in row order, as soon as its last one has come.

    ``results`` are (number of the request from 0, result) in any order. ``units`` may grow while
    they come. Raises EngineError unless the engine answers every request once.
    """
    ends: list[int] = []
    answered = bytearray()
    parts: dict[int, dict[int, T]] = defaultdict(dict)

    def look() -> int:
        """Take note of units that were asked for since; the number of requests so far."""
        for unit in units[len(ends) :]:
            ends.append((ends[-1] if ends else 0) + len(unit.rows))
        total = ends[-1] if ends else 0
        answered.extend(bytes(total - len(answered)))
        return total

    for index, result in results:
        total = look()
        if not 0 <= index < total or answered[index]:
            raise unsound(f"request {index} of {total} was answered twice or never asked")
        answered[index] = True
        u = bisect_right(ends, index)
        parts[u][index] = result
        if len(parts[u]) == len(units[u].rows):
            whole = parts.pop(u)  # its memory goes with the commit
            yield units[u], [whole[i] for i in sorted(whole)]
    total = look()
    if missing := answered.count(0):
        raise unsound(f"{missing} of {total} requests were not answered")


def all_results(results: Iterable[tuple[int, T | Failed]], count: int) -> list[T]:
    """The results of ``count`` requests, in order. Raises EngineError where one was given up, or
    unless every request is answered once."""
    made: dict[int, T] = {}
    for index, result in results:
        if not 0 <= index < count or index in made:
            raise unsound(f"request {index} of {count} was answered twice or never asked")
        if isinstance(result, Failed):
            raise EngineError(
                f"the engine gave up a row: {result.why}",
                hint="what is committed stays; run the command again to try it once more",
            )
        made[index] = result
    if len(made) < count:
        raise unsound(f"{count - len(made)} of {count} requests were not answered")
    return [made[i] for i in range(count)]


def unsound(problem: str) -> EngineError:
    """The error for an engine that does not do what the seam asks of it."""
    return EngineError(
        f"the engine broke its contract: {problem}",
        hint="finished units are kept; report this with the engine's name and version",
    )
