"""Fill a store with an engine's completions, unit by unit, from wherever it stopped."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from leyden.data.prompt_set import RenderedPrompt
from leyden.engines.transformers import Completion, GenerateRequest, TransformersEngine
from leyden.recipe.schema import Sampling
from leyden.store.plan import PlanRow, Unit
from leyden.store.writer import StoreWriter


def fill_completions(
    writer: StoreWriter,
    load_engine: Callable[[], TransformersEngine],
    prompts: Mapping[str, RenderedPrompt],
    sampling: Sampling,
    stop_ids: Sequence[int],
    *,
    mine: Sequence[Unit] | None = None,
    advance: Callable[[int], None] = lambda rows: None,
) -> None:
    """Sample every pending unit (of ``mine``); no model is loaded when none is.

    ``advance`` counts rows.
    """
    units = writer.units if mine is None else mine
    names = {unit.name for unit in units}
    pending = [unit for unit in writer.pending() if unit.name in names]
    advance(sum(len(u.rows) for u in units) - sum(len(u.rows) for u in pending))
    if not pending:
        return
    engine = load_engine()
    for unit in pending:
        began = time.monotonic()
        requests = [GenerateRequest(prompts[r.prompt_id].ids, r.seed) for r in unit.rows]
        completions = engine.generate(requests, sampling, stop_ids, progress=advance)
        writer.commit(unit, _rows(unit, prompts, completions), seconds=time.monotonic() - began)


def _rows(
    unit: Unit, prompts: Mapping[str, RenderedPrompt], completions: Sequence[Completion]
) -> list[dict[str, Any]]:
    pairs = zip(unit.rows, completions, strict=True)
    return [_row(planned, prompts[planned.prompt_id], completion) for planned, completion in pairs]


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
