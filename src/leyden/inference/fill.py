"""Fill a store from an engine: requests over all pending units, a commit when a unit is whole."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from leyden.data.prompt_set import RenderedPrompt
from leyden.engines.base import Completion, Engine, GenerateRequest
from leyden.errors import EngineError
from leyden.recipe.sampling import Sampling
from leyden.store.plan import PlanRow, Unit
from leyden.store.writer import StoreWriter

T = TypeVar("T")
Advance = Callable[[int], None]
"""Told how many more rows are done."""


def fill_completions(
    writer: StoreWriter,
    engine: Engine,
    prompts: Mapping[str, RenderedPrompt],
    sampling: Sampling,
    stop_ids: Sequence[int],
    *,
    mine: Sequence[Unit] | None = None,
    advance: Advance = lambda rows: None,
) -> None:
    """Sample every pending unit (of ``mine``). Where none is pending, no model is loaded."""
    pending = pending_units(writer, mine, advance)
    if not pending:
        return
    engine.load()
    requests = (
        GenerateRequest(prompts[row.prompt_id].ids, row.seed, group)
        for group, unit in enumerate(pending)
        for row in unit.rows
    )
    results = counted(engine.generate(requests, sampling, stop_ids), advance)
    began = time.monotonic()
    for unit, completions in whole_units(pending, results):
        pairs = zip(unit.rows, completions, strict=True)
        rows = [_row(planned, prompts[planned.prompt_id], made) for planned, made in pairs]
        writer.commit(unit, rows, seconds=time.monotonic() - began)
        began = time.monotonic()  # writing is not the device's time


def pending_units(writer: StoreWriter, mine: Sequence[Unit] | None, advance: Advance) -> list[Unit]:
    """The units (of ``mine``) without a commit. ``advance`` is told of the rows of the others."""
    names = {unit.name for unit in (writer.units if mine is None else mine)}
    pending = [unit for unit in writer.pending() if unit.name in names]
    done = names - {unit.name for unit in pending}
    advance(sum(len(unit.rows) for unit in writer.units if unit.name in done))
    return pending


def counted(results: Iterable[tuple[int, T]], advance: Advance) -> Iterator[tuple[int, T]]:
    """``results`` as they come; ``advance`` is told of each."""
    for result in results:
        advance(1)
        yield result


def whole_units(
    units: Sequence[Unit], results: Iterable[tuple[int, T]]
) -> Iterator[tuple[Unit, list[T]]]:
    """Each unit with the results of its rows, in row order, as soon as its last one has come.

    ``results`` are (index of the row over all units, result) in any order. Raises EngineError
    unless the engine answers every request once.
    """
    places = [(u, row) for u, unit in enumerate(units) for row in range(len(unit.rows))]
    parts: list[dict[int, T]] = [{} for _ in units]
    seen: set[int] = set()
    for index, result in results:
        if index in seen or not 0 <= index < len(places):
            raise unsound(f"request {index} of {len(places)} was answered twice or never asked")
        seen.add(index)
        u, row = places[index]
        parts[u][row] = result
        if len(parts[u]) == len(units[u].rows):
            whole, parts[u] = parts[u], {}  # its memory goes with the commit
            yield units[u], [whole[i] for i in range(len(whole))]
    if len(seen) < len(places):
        raise unsound(f"{len(places) - len(seen)} of {len(places)} requests were not answered")


def unsound(problem: str) -> EngineError:
    """The error for an engine that does not do what the seam asks of it."""
    return EngineError(
        f"the engine broke its contract: {problem}",
        hint="finished units are kept; report this with the engine's name and version",
    )


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
