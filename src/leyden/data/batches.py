"""Batches of sequences: which rows, in which order, cut how, and laid out for a model.

The tokens of a batch that carry loss are its N completion tokens, in sequence order whatever the
layout; a stored column is aligned with them. Token n is predicted by the model's output one
position earlier, and ``predict_N`` holds that position: the off-by-one lives here and nowhere else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

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
    lengths = [len(s) for s in sequences]
    if layout == "packed":
        starts = np.cumsum([0, *lengths[:-1]])
        shape, mask = (1, sum(lengths)), None
    else:
        starts = np.arange(len(sequences)) * max(lengths)
        shape, mask = (len(sequences), max(lengths)), torch.zeros(len(sequences), max(lengths))
    ids, positions = np.zeros(shape, np.int64).ravel(), np.zeros(shape, np.int64).ravel()
    predict, targets = [], []
    for start, sequence in zip(starts, sequences, strict=True):
        where = slice(start, start + len(sequence))
        ids[where] = np.concatenate([sequence.prompt_ids, sequence.completion_ids])
        positions[where] = np.arange(len(sequence))
        # The state at a position predicts the token after it, so positions are one lower.
        first = start + len(sequence.prompt_ids)
        predict.append(np.arange(first - 1, first + len(sequence.completion_ids) - 1))
        targets.append(sequence.completion_ids)
    if mask is not None:
        for row, length in enumerate(lengths):
            mask[row, :length] = 1
    counts = torch.tensor([len(s.completion_ids) for s in sequences])
    return TokenBatch(
        ids_BT=torch.from_numpy(ids.reshape(shape)),
        position_ids_BT=torch.from_numpy(positions.reshape(shape)),
        attention_mask_BT=None if mask is None else mask.long(),
        predict_N=torch.from_numpy(np.concatenate(predict)),
        target_N=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        sequence_N=torch.arange(len(sequences)).repeat_interleave(counts),
        lengths_N=counts.repeat_interleave(counts),
        columns=_columns(sequences),
    )


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
