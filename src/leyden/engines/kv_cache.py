"""A cache of keys and values that grows in place, and what it costs.

Transformers' own copies every key and value at every token, to append one, and again whenever a row
leaves the batch. Here rows move up in place where another has left, and new rows join a batch that
is being decoded.
"""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from leyden.sandbox.memory import free_memory

SPARE = 4  # a buffer that is full gets one more column for every four in use
FEWEST = 32  # columns to spare at least
SHARE = 0.8  # of the free memory; the rest is for activations


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer, [B, H, T, D], as views of larger buffers.

    A layer with a sliding window keeps what has left the window, and its mask hides it: new rows
    can then join at any time.
    """

    def __init__(self, *, is_sliding: bool = False) -> None:
        super().__init__()
        self.is_sliding = is_sliding
        self._whole: list[Tensor] = []
        self._rows, self._start, self._used = 0, 0, 0  # the part of the buffers in use

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append columns; all keys and values so far."""
        rows, _, added, _ = key_states.shape
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            states = (key_states, value_states)
            self._whole = [_buffer(part[:, :, :0], added) for part in states]
            self._rows = rows
        self._make_room(rows, added)
        stop = self._start + self._used + added
        for buffer, states in zip(self._whole, (key_states, value_states), strict=True):
            buffer[:rows, :, stop - added : stop] = states
        self._used += added
        return self._show()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows ``indices``, in this order. Only rows that change their place are moved."""
        places = indices.tolist()
        moved = [(to, place) for to, place in enumerate(places) if to != place]
        if len(set(places)) < len(places):  # rows are repeated
            self._whole = [_buffer(part[indices], self._used) for part in self._show()]
            self._start = 0
        elif moved:
            to, source = torch.tensor(moved, device=self.device).T
            columns = slice(self._start, self._start + self._used)
            for buffer in self._whole:
                buffer[to, :, columns] = buffer[source, :, columns]
        self._rows = len(places)
        self._show()

    def join(self, other: "GrowingLayer") -> None:
        """Add the rows of ``other``, so that all rows end at the same column."""
        rows, more, length = self._rows, other._rows, other._used
        self._make_room(rows + more, 0, left=max(0, length - self._used))
        stop = self._start + self._used
        for buffer, part in zip(self._whole, other._show(), strict=True):
            buffer[rows : rows + more, :, stop - length : stop] = part
        self._rows += more
        self._show()

    def forget(self, columns: int) -> None:
        """Leave out the first columns, which are padding in every row by now."""
        self._start += columns
        self._used -= columns
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        """Let the rest of the cache see the part in use, as Transformers' own layers hold it."""
        columns = slice(self._start, self._start + self._used)
        keys, values = (buffer[: self._rows, :, columns] for buffer in self._whole)
        self.keys, self.values = keys, values
        return keys, values

    def _make_room(self, rows: int, right: int, left: int = 0) -> None:
        """Room for ``rows`` rows, and for columns on both sides of those in use; the ones on the
        left are in use from now on."""
        start, used, (most, _, capacity, _) = self._start, self._used, self._whole[0].shape
        wanted = left + used + right
        if rows <= most and left <= start and start + used + right <= capacity:
            self._start -= left
        elif rows <= most and not left and wanted + FEWEST <= capacity and start > used // 8:
            for buffer in self._whole:
                for row in range(self._rows):  # one by one: they overlap
                    buffer[row, :, :used] = buffer[row, :, start : start + used].clone()
            self._start = 0
        else:
            for i, part in enumerate(self._show()):
                self._whole[i] = _buffer(part, wanted, rows=max(rows, most), left=left)
            self._start = 0
        self._used += left


def _buffer(part: Tensor, wanted: int, *, rows: int = 0, left: int = 0) -> Tensor:
    """A buffer with room for ``wanted`` columns and more, that holds ``part`` from column ``left``.

    It begins as zeros: a mask hides what a row does not use, but zero times NaN is NaN.
    """
    batch, heads, used, width = part.shape
    columns = wanted + max(FEWEST, wanted // SPARE)
    buffer = part.new_zeros(max(rows, batch), heads, columns, width)
    buffer[:batch, :, left : left + used] = part
    return buffer


def growing_cache(model: PreTrainedModel) -> Cache:
    """An empty cache for ``model``. Layers that are not attention alone stay Transformers' own."""
    cache = DynamicCache(config=model.config)
    if not cache.layers or cache.layer_class_to_replicate is not None:
        return cache
    for i, layer in enumerate(cache.layers):
        if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer):
            sliding = isinstance(layer, DynamicSlidingWindowLayer)
            cache.layers[i] = GrowingLayer(is_sliding=sliding)
    return cache


def bytes_per_token(cache: Cache) -> int:
    """Bytes of the keys and values of one token in a filled cache; 0 where it cannot be told."""
    layers = [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]
    parts = [part for layer in layers for part in (layer.keys, layer.values) if part is not None]
    return sum(part.shape[1] * part.shape[3] * part.element_size() for part in parts)


def tokens_that_fit(device: torch.device, token_bytes: int) -> int:
    """Tokens whose keys and values fit into the free memory, with spare columns."""
    buffered = max(1, token_bytes) * (1 + 1 / SPARE)
    return int(SHARE * free_bytes(device) / buffered)


def free_bytes(device: torch.device) -> int:
    """Free memory of a device; of the CPU, what the system can give without swapping."""
    if device.type == "cuda":
        ours = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + ours
    with suppress(OSError):  # of systems without /proc; implemented, not run
        return free_memory()
    return 2**33
