"""A batch of growing sequences with a cache: rows leave when they have stopped, and others join."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from leyden.engines.kv_cache import GrowingLayer, growing_cache
from leyden.models.context import check_positions
from leyden.models.parts import backbone, computing


@dataclass(frozen=True)
class Batching:
    """``drops``: a row that has stopped can leave the batch. ``pads``: prompts of different lengths
    can share one. ``joins``: prompts can join a batch that is being decoded."""

    drops: bool = True
    pads: bool = True
    joins: bool = True


class Decoding:
    """A batch of growing sequences: left-padded prompts, the KV cache, and who is still going.

    ``hidden_BD`` are the states that predict the next token of each. ``rows`` says which request
    each row of the batch belongs to. All rows end at the same column.
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
        self.cache = growing_cache(model)
        self.mask_BT = mask_BT
        self.next_position_B = mask_BT.sum(-1)

    @classmethod
    def begin(
        cls,
        model: PreTrainedModel,
        dtype: torch.dtype,
        prompts: Sequence[Sequence[int]],
        batching: Batching,
        rows: Sequence[int] | None = None,
    ) -> "Decoding":
        """Read the prompts, left-padded so that all of them end at the same column. ``rows`` are
        the requests that they are of; by default they are counted."""
        rows = list(range(len(prompts)) if rows is None else rows)
        if not batching.drops or len(set(map(tuple, prompts))) == len(prompts):
            return cls._begin(model, dtype, prompts, rows, batching)
        different = {tuple(prompt): None for prompt in prompts}  # in the order they first come
        state = cls._begin(model, dtype, list(different), rows[: len(different)], batching)
        place = {prompt: i for i, prompt in enumerate(different)}
        state._select([place[tuple(prompt)] for prompt in prompts])
        state.rows = rows
        return state

    @classmethod
    def _begin(
        cls,
        model: PreTrainedModel,
        dtype: torch.dtype,
        prompts: Sequence[Sequence[int]],
        rows: list[int],
        batching: Batching,
    ) -> "Decoding":
        longest = max(map(len, prompts))
        ids_BT = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask_BT = torch.zeros_like(ids_BT)
        for row, prompt in enumerate(prompts):
            ids_BT[row, longest - len(prompt) :] = torch.as_tensor(np.asarray(prompt, np.int64))
            mask_BT[row, longest - len(prompt) :] = 1
        ids_BT, mask_BT = ids_BT.to(model.device), mask_BT.to(model.device)
        state = cls(model, dtype, mask_BT, rows, batching)
        # Positions count from each prompt's first token, as in training; padding gets any.
        state._read(ids_BT, (mask_BT.cumsum(-1) - 1).clamp_min(0))
        return state

    @property
    def columns(self) -> int:
        """Columns of the cache that are in use: the longest row's tokens, and padding before it."""
        return self.mask_BT.shape[1]

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
            self._select(going)
            next_B = next_B[going]
        self.mask_BT = torch.nn.functional.pad(self.mask_BT, (0, 1), value=1)
        self._read(next_B[:, None], self.next_position_B[:, None])
        self.next_position_B = self.next_position_B + 1

    def _select(self, order: list[int]) -> None:
        places = torch.tensor(order, device=self.mask_BT.device)
        self.cache.batch_select_indices(places)
        self.mask_BT, self.hidden_BD = self.mask_BT[places], self.hidden_BD[places]
        self.next_position_B = self.next_position_B[places]
        self.rows = [self.rows[i] for i in order]

    def join(self, other: "Decoding") -> None:
        """Add the rows of ``other``, whose prompts have been read."""
        self.forget_padding()
        for layer, joining in zip(self.cache.layers, other.cache.layers, strict=True):
            assert isinstance(layer, GrowingLayer) and isinstance(joining, GrowingLayer)
            layer.join(joining)
        width = max(self.columns, other.columns)
        padded = [
            torch.nn.functional.pad(state.mask_BT, (width - state.columns, 0))
            for state in (self, other)
        ]
        self.mask_BT = torch.cat(padded)
        self.hidden_BD = torch.cat([self.hidden_BD, other.hidden_BD])
        self.next_position_B = torch.cat([self.next_position_B, other.next_position_B])
        self.rows = [*self.rows, *other.rows]

    def forget_padding(self) -> None:
        """Give up the columns before the longest row."""
        unused = self.columns - int(self.next_position_B.max())
        if unused > 0:
            for layer in self.cache.layers:
                assert isinstance(layer, GrowingLayer)
                layer.forget(unused)
            self.mask_BT = self.mask_BT[:, unused:]
