"""Fill a store from an engine: requests over all pending units, a commit when a unit is whole.

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

import numpy as np

from leyden.data.prompt_set import RenderedPrompt
from leyden.data.scored import ROUNDING
from leyden.engines.base import Completion, Engine, Failed, GenerateRequest
from leyden.errors import EngineError
from leyden.recipe.sampling import Sampling
from leyden.store.claim import Hand, taken_by
from leyden.store.plan import PlanRow, Unit
from leyden.store.writer import StoreWriter

T = TypeVar("T")
Advance = Callable[[int], None]
"""Told how many more rows are done."""
Answer = Callable[[Iterator[tuple[int, Unit]]], Iterable[tuple[int, T | Failed]]]
"""Given units, each with a number, as the engine asks for them: (number of the row, result)."""
LOOK_SECONDS = (0.05, 2.0)  # shortest and longest pause between looks at what others work on


def fill_completions(
    writer: StoreWriter,
    engine: Engine,
    prompts: Mapping[str, RenderedPrompt],
    sampling: Sampling,
    stop_ids: Sequence[int],
    *,
    vocab_size: int,
    context: int | None = None,
    prepare: Callable[[], None] = lambda: None,
    mine: Sequence[Unit] | None = None,
    advance: Advance = lambda rows: None,
) -> None:
    """Sample every pending unit (of ``mine``). Where none is pending, no model is loaded.

    ``prepare`` is called before the first unit. Completions end where the ``context`` does, in
    tokens, if it is given. Raises EngineError on a completion that breaks the
    seam's contract, and at the end where the engine gave rows up.
    """

    def request_of(prompt: RenderedPrompt, row: PlanRow, group: int) -> GenerateRequest:
        room = None if context is None else context - len(prompt.ids)
        return GenerateRequest(prompt.ids, row.seed, group, room)

    def answer(units: Iterator[tuple[int, Unit]]) -> Iterable[tuple[int, Completion | Failed]]:
        requests = (
            request_of(prompts[row.prompt_id], row, group)
            for group, unit in units
            for row in unit.rows
        )
        return engine.generate(requests, sampling, stop_ids)

    def rows(unit: Unit, completions: Sequence[Completion]) -> list[dict[str, Any]]:
        pairs = list(zip(unit.rows, completions, strict=True))
        for planned, made in pairs:
            where = f"prompt {planned.prompt_id}, sample {planned.sample}"
            cap = request_of(prompts[planned.prompt_id], planned, 0).cap(sampling)
            check_completion(made, cap, stop_ids, vocab_size=vocab_size, where=where)
        return [_row(planned, prompts[planned.prompt_id], made) for planned, made in pairs]

    def load() -> None:
        engine.load()
        prepare()

    fill_units(writer, answer, rows, load=load, mine=mine, advance=advance)


def fill_units(
    writer: StoreWriter,
    answer: Answer[T],
    rows: Callable[[Unit, Sequence[T]], list[dict[str, Any]]],
    *,
    load: Callable[[], None],
    mine: Sequence[Unit] | None,
    advance: Advance,
) -> None:
    """Make every pending unit (of ``mine``) that no other worker makes, and wait for the others.

    Raises EngineError at the end where units had to be left out.
    """
    counted: set[str] = set()
    parked: dict[str, str] = {}
    pause, loaded = LOOK_SECONDS[0], False
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
                    seconds = time.monotonic() - began
                    writer.commit(
                        unit,
                        rows(unit, [m for m in made if not isinstance(m, Failed)]),
                        seconds=seconds,
                    )
                hand.release(unit.name)
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


def check_completion(
    made: Completion,
    cap: int,
    stop_ids: Sequence[int],
    *,
    vocab_size: int,
    where: str,
) -> None:
    """Raise EngineError unless this is a completion as ``engines.base`` describes it."""
    ids = made.ids
    stops = np.flatnonzero(np.isin(ids, stop_ids))
    if not 1 <= len(ids) <= cap:
        problem = f"{len(ids)} tokens, with a cap of {cap}"
    elif len(made.logp) != len(ids):
        problem = f"{len(made.logp)} log-probs for {len(ids)} tokens"
    elif not np.isfinite(made.logp).all() or (made.logp > ROUNDING).any():
        problem = "a log-prob that is not finite, or above zero"
    elif ids.min() < 0 or ids.max() >= vocab_size:
        problem = f"an id outside the vocabulary of {vocab_size}"
    elif made.finish_reason == "stop" and stops.tolist() != [len(ids) - 1]:
        problem = "it says that it stopped, and its last token alone should be a stop token"
    elif made.finish_reason == "length" and (len(stops) or len(ids) < cap):
        problem = "it says that it was cut at the cap, and it is shorter or holds a stop token"
    elif made.finish_reason not in ("stop", "length"):
        problem = f"finish_reason {made.finish_reason!r}"
    else:
        return
    raise unsound(f"{where}: {problem}")


def _row(planned: PlanRow, prompt: RenderedPrompt, completion: Completion) -> dict[str, Any]:
    return {
        "prompt_id": planned.prompt_id,
        "sample": planned.sample,
        "split": prompt.split,
        "prompt_ids": prompt.ids,
        "completion_ids": completion.ids,
        "logp_sampler": completion.logp,
        "finish_reason": completion.finish_reason,
    }
