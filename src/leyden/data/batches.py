"""Batches of sequences: which rows, in which order, cut how, and laid out for a model.

The tokens of a batch that carry loss are its N completion tokens, in sequence order whatever the
layout; a stored column is aligned with them. Token n is predicted by the model's output one
position earlier, and ``predict_N`` holds that position: the off-by-one lives here and nowhere else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from leyden.data.sequences import TeacherColumns, TokenSequence, join_columns


@dataclass(frozen=True)
class TokenBatch:
    """B rows of T positions holding S sequences with N completion tokens in all.

    ``attention_mask_BT`` is None where sequences are packed into one row. ``position_ids_BT`` then
    starts anew at each sequence, and attention keeps to its own sequence.
    """

    ids_BT: Tensor
    position_ids_BT: Tensor
    attention_mask_BT: Tensor | None
    predict_N: Tensor
    """int64, index into the flattened [B*T] of the state that predicts token n."""
    target_N: Tensor
    """int64, the completion tokens themselves."""
    sequence_N: Tensor
    """int64, 0..S-1, nondecreasing."""
    lengths_N: Tensor
    """int64, completion tokens of the token's sequence."""
    columns: TeacherColumns[Tensor] | None = None
    """The stored scores, where the sequences were scored."""

    def to(self, device: torch.device) -> "TokenBatch":
        tensors = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        columns = self.columns and self.columns.map(lambda column: column.to(device))
        return replace(self, **tensors, columns=columns)


def collate(sequences: Sequence[TokenSequence], *, layout: str = "padded") -> TokenBatch:
    """Lay sequences out as right-padded rows, or packed into one row."""
    lengths_S = np.array([len(s) for s in sequences])
    prompts_S = np.array([len(s.prompt_ids) for s in sequences])
    ends_S = lengths_S.cumsum()
    # Of all L tokens, one sequence after another: the position in the sequence, then in the batch.
    position_L = np.arange(ends_S[-1]) - (ends_S - lengths_S).repeat(lengths_S)
    if layout == "packed":
        shape, place_L = (1, len(position_L)), np.arange(len(position_L))
    else:
        shape = (len(sequences), int(lengths_S.max()))
        place_L = (np.arange(shape[0]) * shape[1]).repeat(lengths_S) + position_L
    token_L = np.concatenate([part for s in sequences for part in (s.prompt_ids, s.completion_ids)])
    completion_L = position_L >= prompts_S.repeat(lengths_S)
    place = partial(_place, place_L, shape)
    completions_S = torch.from_numpy(lengths_S - prompts_S)
    return TokenBatch(
        ids_BT=place(token_L),
        position_ids_BT=place(position_L),
        attention_mask_BT=None if layout == "packed" else place(np.ones_like(position_L)),
        # The state at a position predicts the token after it, so positions are one lower.
        predict_N=torch.from_numpy(place_L[completion_L] - 1),
        target_N=torch.from_numpy(token_L[completion_L].astype(np.int64)),
        sequence_N=torch.arange(len(sequences)).repeat_interleave(completions_S),
        lengths_N=completions_S.repeat_interleave(completions_S),
        columns=_columns(sequences),
    )


def _place(place_L: np.ndarray, shape: tuple[int, int], value_L: np.ndarray) -> Tensor:
    """A tensor of ``shape``, int64, with the values at their places and zeros elsewhere."""
    filled = np.zeros(shape, np.int64)
    filled.ravel()[place_L] = value_L
    return torch.from_numpy(filled)


def _columns(sequences: Sequence[TokenSequence]) -> TeacherColumns[Tensor] | None:
    scored = [s.columns for s in sequences if s.columns is not None]
    assert len(scored) in (0, len(sequences)), "some sequences of the batch were not scored"
    return join_columns(scored).map(torch.from_numpy) if scored else None


def split_by_tokens(
    lengths: Sequence[int], *, budget: int, layout: str = "padded"
) -> list[list[int]]:
    """Cut a batch into micro-batches under a token budget, longest first; indices into ``lengths``.

    Padding counts. A sequence longer than the budget gets a micro-batch of its own.
    """
    groups: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        # A padded row is as long as the first of its group, which is the longest.
        cost = lengths[groups[-1][0]] if groups and layout == "padded" else lengths[index]
        if not groups or tokens + cost > budget:
            groups.append([])
            tokens, cost = 0, lengths[index]
        groups[-1].append(index)
        tokens += cost
    return groups


def rows_of_step(step: int, *, batch_size: int, num_rows: int, seed: int) -> list[int]:
    """The rows of optimizer step ``step`` (from 0): permutation after permutation, cut in batches.

    A function of its arguments alone. Resuming needs only (seed, step), and no split over ranks or
    micro-batches changes the sequences of a step.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    epochs = {position // num_rows for position in positions}
    orders = {epoch: permutation(num_rows, seed=seed, epoch=epoch) for epoch in epochs}
    return [int(orders[p // num_rows][p % num_rows]) for p in positions]


@lru_cache(maxsize=2)  # a batch may cross from one epoch into the next
def permutation(num_rows: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of ``num_rows`` rows in an epoch, [num_rows], read-only."""
    order = np.random.default_rng([seed, epoch]).permutation(num_rows)
    order.setflags(write=False)
    return order


def batched(items: Sequence, size: int) -> Iterator[Sequence]:
    """Consecutive parts of ``size`` items; the last may be shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))
