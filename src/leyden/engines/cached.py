"""Decode a batch token by token with a cache, in a way that gives each row the states it has alone.

Models with a recurrent state differ in this: some cannot drop a row from their cache, and some read
the padding before a short prompt. A few tokens show what a model can do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from leyden.errors import EngineError, first_line
from leyden.models.checks import OUT_OF_MEMORY, agrees, compare, named, sample_ids, states_alone
from leyden.models.context import check_positions
from leyden.models.parts import backbone, computing


@dataclass(frozen=True)
class Batching:
    """``drops``: a row that has stopped can leave the batch. ``pads``: prompts of different lengths
    can share one."""

    drops: bool = True
    pads: bool = True


WAYS = (Batching(), Batching(drops=False), Batching(pads=False), Batching(drops=False, pads=False))
NUM_STEPS = 12

_known: WeakKeyDictionary[PreTrainedModel, Batching] = WeakKeyDictionary()


def batching_of(model: PreTrainedModel) -> Batching:
    """The fastest way to decode batches that leaves every row as it is alone. Raises EngineError
    where there is none."""
    if model not in _known:
        _known[model] = _find_batching(model)
    return _known[model]


def _find_batching(model: PreTrainedModel) -> Batching:
    gaps, why = [], ""
    for way in WAYS:
        try:
            gaps.append(_gap(model, way))
        except OUT_OF_MEMORY:
            raise
        except Exception as error:  # of any kind: a cache that lacks what this way needs
            why = first_line(error)
            continue
        # A gap that is not a number is of a model that gives none; sampling reports that itself.
        if agrees(model, gaps[-1]) or gaps[-1] != gaps[-1]:
            return way
    shown = f"its cache moves log-probs by {min(gaps):.2g} nats" if gaps else why
    raise EngineError(
        f"{named(model)}: cannot be sampled, {shown}",
        hint="use a model of another architecture",
    )


@torch.no_grad()
def _gap(model: PreTrainedModel, way: Batching) -> float:
    """The distance, in nats, of states that are decoded in this way from those of whole sequences.

    The first row stops after two steps, and the others go on.
    """
    prompts = [ids_T if way.pads else ids_T[:5] for ids_T in sample_ids(model)]
    added_BT = torch.stack([ids_T.flip(0).repeat(3)[:NUM_STEPS] for ids_T in prompts])
    expected = [
        states_alone(model, torch.cat([prompt, added]))
        for prompt, added in zip(prompts, added_BT, strict=True)
    ]
    state = Decoding.begin(model, model.dtype, [p.tolist() for p in prompts], way)
    ours, theirs = [], []
    for step in range(NUM_STEPS + 1):
        rows = [row for row in state.rows if row or step <= 2]
        places = [state.rows.index(row) for row in rows]
        ours += [state.hidden_BD[place] for place in places]
        theirs += [expected[row][len(prompts[row]) + step - 1] for row in rows]
        if step < NUM_STEPS:
            going = [i for i, row in enumerate(state.rows) if row or step < 2]
            state.advance(added_BT[state.rows, step], going)
    return compare(model, torch.stack(ours), torch.stack(theirs))


class Decoding:
    """A batch of growing sequences: left-padded prompts, the KV cache, and who is still going.

    ``hidden_BD`` are the states that predict the next token of each. ``rows`` says which request
    each row of the batch belongs to.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        dtype: torch.dtype,
        mask_BT: Tensor,
        rows: list[int],
        batching: Batching,
    ) -> None:
        self.model, self.dtype, self.rows, self.batching = model, dtype, rows, batching
        self.cache = DynamicCache(config=model.config)
        self.mask_BT = mask_BT
        self.next_position_B = mask_BT.sum(-1)

    @classmethod
    def begin(
        cls,
        model: PreTrainedModel,
        dtype: torch.dtype,
        prompts: Sequence[Sequence[int]],
        batching: Batching,
    ) -> "Decoding":
        """Read the prompts, left-padded so that all of them end at the same position."""
        longest = max(map(len, prompts))
        ids_BT = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask_BT = torch.zeros_like(ids_BT)
        for row, prompt in enumerate(prompts):
            ids_BT[row, longest - len(prompt) :] = torch.as_tensor(np.asarray(prompt, np.int64))
            mask_BT[row, longest - len(prompt) :] = 1
        ids_BT, mask_BT = ids_BT.to(model.device), mask_BT.to(model.device)
        state = cls(model, dtype, mask_BT, list(range(len(prompts))), batching)
        # Positions count from each prompt's first token, as in training; padding gets any.
        state._read(ids_BT, (mask_BT.cumsum(-1) - 1).clamp_min(0))
        return state

    def _read(self, ids_BT: Tensor, positions_BT: Tensor) -> None:
        check_positions(self.model, positions_BT)
        with computing(self.model, self.dtype):
            output = backbone(self.model)(
                input_ids=ids_BT,
                attention_mask=self.mask_BT,
                position_ids=positions_BT,
                past_key_values=self.cache,
                use_cache=True,
            )
        self.hidden_BD = output.last_hidden_state[:, -1]

    def advance(self, next_B: Tensor, going: list[int]) -> None:
        """Append a token to the rows at the indices ``going``, and drop the others if they can be
        dropped."""
        if len(going) < len(self.rows) and self.batching.drops:
            # A row that has stopped costs nothing more.
            keep = torch.tensor(going, device=next_B.device)
            self.cache.batch_select_indices(keep)
            next_B, self.mask_BT = next_B[keep], self.mask_BT[keep]
            self.next_position_B = self.next_position_B[keep]
            self.rows = [self.rows[i] for i in going]
        self.mask_BT = torch.nn.functional.pad(self.mask_BT, (0, 1), value=1)
        self._read(next_B[:, None], self.next_position_B[:, None])
        self.next_position_B = self.next_position_B + 1
