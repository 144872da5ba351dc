"""Fill a store with completions."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from leyden.data.prompt_set import RenderedPrompt
from leyden.data.scored import ROUNDING
from leyden.engines.base import Completion, Engine, Failed, GenerateRequest
from leyden.inference.units import Advance, fill_units, unsound
from leyden.recipe.sampling import Sampling
from leyden.store.plan import PlanRow, Unit
from leyden.store.writer import StoreWriter


def fill_completions(
    writer: StoreWriter,
    engine: Engine,
    prompts: Mapping[str, RenderedPrompt],
    sampling: Sampling,
    stop_ids: Sequence[int],
    *,
    vocab_size: int,
    context: int | None = None,
    devices: int = 1,
    prepare: Callable[[], None] = lambda: None,
    mine: Sequence[Unit] | None = None,
    advance: Advance = lambda rows: None,
) -> None:
    """Sample every pending unit (of ``mine``). Where none is pending, no model is loaded.

    ``prepare`` is called before the first unit. Completions end where the ``context`` does, in
    tokens, if it is given. Raises EngineError on a completion that breaks the
    seam's contract, and at the end where the engine gave rows up.
    """

    def request_of(row: PlanRow, group: int = 0, last: bool = False) -> GenerateRequest:
        prompt = prompts[row.prompt_id]
        room = None if context is None else context - len(prompt.ids)
        return GenerateRequest(prompt.ids, row.seed, group, last, room)

    def answer(units: Iterator[tuple[int, Unit]]) -> Iterable[tuple[int, Completion | Failed]]:
        requests = (
            request_of(row, group, number == len(unit.rows))
            for group, unit in units
            for number, row in enumerate(unit.rows, start=1)
        )
        return engine.generate(requests, sampling, stop_ids)

    def rows(unit: Unit, completions: Sequence[Completion]) -> list[dict[str, Any]]:
        pairs = list(zip(unit.rows, completions, strict=True))
        for planned, made in pairs:
            where = f"prompt {planned.prompt_id}, sample {planned.sample}"
            cap = request_of(planned).cap(sampling)
            check_completion(made, cap, stop_ids, vocab_size=vocab_size, where=where)
        return [_row(planned, prompts[planned.prompt_id], made) for planned, made in pairs]

    def load() -> None:
        engine.load()
        prepare()

    fill_units(writer, answer, rows, load=load, mine=mine, advance=advance, devices=devices)


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
