"""Find a way to decode batches of a model in which each row gets the states it has alone.

Models with a recurrent state differ in this: some cannot drop a row from their cache, and some read
the padding before a short prompt. A few tokens show what a model can do.
"""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from leyden.engines.cached import Batching, Decoding
from leyden.engines.kv_cache import GrowingLayer, bytes_per_token, growing_cache
from leyden.errors import EngineError, first_line
from leyden.models.checks import OUT_OF_MEMORY, agrees, compare, named, sample_ids, states_alone

WAYS = (
    Batching(),
    Batching(joins=False),
    Batching(drops=False, joins=False),
    Batching(pads=False, joins=False),
    Batching(drops=False, pads=False, joins=False),
)
NUM_STEPS = 12
DROPPED_AT, JOINED_AT = 2, 5  # steps

_known: WeakKeyDictionary[PreTrainedModel, tuple[Batching, int]] = WeakKeyDictionary()


def batching_of(model: PreTrainedModel) -> Batching:
    """The fastest way to decode batches that leaves every row as it is alone. Raises EngineError
    where there is none."""
    return _batching_and_bytes(model)[0]


def token_bytes(model: PreTrainedModel) -> int:
    """Bytes that the cache needs for a token of one row."""
    return _batching_and_bytes(model)[1]


def _batching_and_bytes(model: PreTrainedModel) -> tuple[Batching, int]:
    if model not in _known:
        _known[model] = _find_batching(model)
    return _known[model]


def _find_batching(model: PreTrainedModel) -> tuple[Batching, int]:
    gaps, why = [], ""
    can_join = _can_join(model)
    for way in (way for way in WAYS if can_join or not way.joins):
        try:
            gap, size = _gap(model, way)
        except OUT_OF_MEMORY:
            raise
        except Exception as error:  # of any kind: a cache that lacks what this way needs
            why = first_line(error)
            continue
        gaps.append(gap)
        # A gap that is not a number is of a model that gives none; sampling reports that itself.
        if agrees(model, gap) or gap != gap:
            return way, size
    shown = f"its cache moves log-probs by {min(gaps):.2g} nats" if gaps else why
    raise EngineError(
        f"{named(model)}: cannot be sampled, {shown}",
        hint="use a model of another architecture",
    )


@torch.no_grad()
def _gap(model: PreTrainedModel, way: Batching) -> tuple[float, int]:
    """(the distance, in nats, of states that are decoded in this way from those of whole sequences;
    the bytes of a token in the cache).

    The first row stops after two steps, the last joins after five if rows can join, and the others
    go on.
    """
    prompts = [ids_T if way.pads else ids_T[:5] for ids_T in sample_ids(model)]
    added_BT = torch.stack([ids_T.flip(0).repeat(3)[:NUM_STEPS] for ids_T in prompts])
    expected = [
        states_alone(model, torch.cat([prompt, added]))
        for prompt, added in zip(prompts, added_BT, strict=True)
    ]
    begun_at = [0] * len(prompts)
    first = len(prompts) - way.joins
    begun_at[first:] = [JOINED_AT] * way.joins
    state = _begun(model, way, prompts, list(range(first)))
    ours: list[Tensor] = []
    theirs: list[Tensor] = []
    for step in range(NUM_STEPS + 1):
        if way.joins and step == JOINED_AT:
            state.join(_begun(model, way, prompts, [first]))
        for place, row in enumerate(state.rows):
            if row or step <= DROPPED_AT:
                ours.append(state.hidden_BD[place])
                theirs.append(expected[row][len(prompts[row]) + step - begun_at[row] - 1])
        if step < NUM_STEPS:
            tokens = [added_BT[row, step - begun_at[row]] for row in state.rows]
            going = [i for i, row in enumerate(state.rows) if row or step < DROPPED_AT]
            state.advance(torch.stack(tokens), going)
    return compare(model, torch.stack(ours), torch.stack(theirs)), bytes_per_token(state.cache)


def _begun(
    model: PreTrainedModel, way: Batching, prompts: list[Tensor], rows: list[int]
) -> Decoding:
    return Decoding.begin(model, model.dtype, [prompts[r].tolist() for r in rows], way, rows)


def _can_join(model: PreTrainedModel) -> bool:
    """Whether the cache is of keys and values alone, so that rows can be added to it."""
    layers = growing_cache(model).layers
    return bool(layers) and all(isinstance(layer, GrowingLayer) for layer in layers)
