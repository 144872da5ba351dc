"""Fill a store from an engine: requests over all pending units, a commit when a unit is whole."""

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np

from leyden.data.prompt_set import RenderedPrompt
from leyden.data.scored import ROUNDING
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
    vocab_size: int,
    mine: Sequence[Unit] | None = None,
    advance: Advance = lambda rows: None,
) -> None:
    """Sample every pending unit (of ``mine``). Where none is pending, no model is loaded.

    Raises EngineError on a completion that breaks the seam's contract.
    """
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
        pairs = list(zip(unit.rows, completions, strict=True))
        for planned, made in pairs:
            where = f"prompt {planned.prompt_id}, sample {planned.sample}"
            check_completion(made, sampling, stop_ids, vocab_size=vocab_size, where=where)
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

    ``results`` are (number of the request from 0, result) in any order. Raises EngineError
    unless the engine answers every request once.
    """
    ends = list(accumulate(len(unit.rows) for unit in units))
    total = ends[-1] if ends else 0
    answered = bytearray(total)
    parts: dict[int, dict[int, T]] = defaultdict(dict)
    for index, result in results:
        if not 0 <= index < total or answered[index]:
            raise unsound(f"request {index} of {total} was answered twice or never asked")
        answered[index] = True
        u = bisect_right(ends, index)
        parts[u][index] = result
        if len(parts[u]) == len(units[u].rows):
            whole = parts.pop(u)  # its memory goes with the commit
            yield units[u], [whole[i] for i in sorted(whole)]
    if missing := answered.count(0):
        raise unsound(f"{missing} of {total} requests were not answered")


def unsound(problem: str) -> EngineError:
    """The error for an engine that does not do what the seam asks of it."""
    return EngineError(
        f"the engine broke its contract: {problem}",
        hint="finished units are kept; report this with the engine's name and version",
    )


def check_completion(
    made: Completion,
    sampling: Sampling,
    stop_ids: Sequence[int],
    *,
    vocab_size: int,
    where: str,
) -> None:
    """Raise EngineError unless this is a completion as ``engines.base`` describes it."""
    ids, cap = made.ids, sampling.max_new_tokens
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
