"""Sample a stream of requests: a row that has stopped makes room for the next prompt.

A row's tokens depend on its own seed and log-probs alone. The last bits of a log-prob depend on
which rows share a batch, and that depends on the requests and the settings, not on time.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from leyden.engines.base import Completion, GenerateRequest
from leyden.engines.batching import batching_of, token_bytes
from leyden.engines.cached import Decoding
from leyden.engines.kv_cache import tokens_that_fit
from leyden.engines.sampling import sample, uniforms
from leyden.errors import EngineError
from leyden.logprobs import Head, head_logits
from leyden.models.checks import OUT_OF_MEMORY, named
from leyden.recipe.sampling import Sampling
from leyden.recipe.schema import Execution

REFILL = 8  # a batch is refilled when one of so many places is free: reading prompts interrupts it
AHEAD = 4  # batches of requests that are read ahead and sorted by length


@dataclass
class Row:
    """A request, and its tokens so far."""

    index: int
    request: GenerateRequest
    ids: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    uniform_L: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def context(self) -> list[int]:
        """The prompt and the tokens so far: what is read to go on from here."""
        return [*self.request.prompt_ids, *self.ids]


class Stream:
    """Rows in a batch that is decoded, and rows that wait for a place in it."""

    def __init__(
        self, model: PreTrainedModel, head: Head, dtype: torch.dtype, execution: Execution
    ) -> None:
        self.model, self.head, self.dtype = model, head, dtype
        self.batching, self.places = batching_of(model), execution.generate_batch_size
        self.fits = tokens_that_fit(model.device, token_bytes(model))
        self.waiting: deque[Row] = deque()
        self.going: dict[int, Row] = {}
        self.ended: list[tuple[int, Completion]] = []
        self.state: Decoding | None = None

    @torch.inference_mode()
    def generate(
        self, requests: Iterable[GenerateRequest], sampling: Sampling, stop_ids: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        """(index, completion) as completions end."""
        coming = enumerate(requests)
        while True:
            self._read_ahead(coming)
            if not self.waiting and not self.going:
                return
            try:
                self._fill_places(sampling)
                self._step(sampling, stop_ids)
            except OUT_OF_MEMORY as error:
                self._back_off(error)
            yield from self.ended
            self.ended = []

    def _read_ahead(self, coming: Iterator[tuple[int, GenerateRequest]]) -> None:
        """Rows of similar length wait together, since they waste little padding."""
        if len(self.waiting) > self.places:
            return
        rows = [Row(*numbered) for numbered in islice(coming, AHEAD * self.places)]
        # The index makes the order, and so the bits, certain.
        rows.sort(key=lambda row: (len(row.request.prompt_ids), row.index))
        self.waiting.extend(rows)

    def _fill_places(self, sampling: Sampling) -> None:
        """Read the prompts of waiting rows into free places, once these are worth it."""
        free = self.places - len(self.going)
        if self.going and (not self.batching.joins or free < max(1, self.places // REFILL)):
            return
        rows = self._next(free, sampling)
        if not rows:
            return
        for row in rows:
            if not len(row.uniform_L):
                row.uniform_L = uniforms([row.request.seed], row.request.cap(sampling))[0]
        contexts, numbers = [row.context for row in rows], [row.index for row in rows]
        self.going |= {row.index: row for row in rows}
        state = Decoding.begin(self.model, self.dtype, contexts, self.batching, numbers)
        if self.state is None:
            self.state = state
        else:
            self.state.join(state)

    def _next(self, free: int, sampling: Sampling) -> list[Row]:
        """The waiting rows that begin now: no more than have a place, and whose keys fit."""
        longest = self.state.columns if self.state else 0
        rows: list[Row] = []
        while self.waiting and len(rows) < free:
            row = self.waiting[0]
            length = len(row.request.prompt_ids) + len(row.ids)
            if rows and not self.batching.pads and length != len(rows[0].context):
                break
            left = row.request.cap(sampling) - len(row.ids)
            longest = max(longest, length if self.batching.joins else length + left)
            alone = not rows and not self.going
            if (len(self.going) + len(rows) + 1) * (longest + 1) > self.fits and not alone:
                break
            rows.append(self.waiting.popleft())
        return rows

    def _step(self, sampling: Sampling, stop_ids: Sequence[int]) -> None:
        """Draw a token for every row, and read it where the row goes on."""
        assert self.state is not None, "a row that waits begins when none is going"
        state = self.state
        next_B, logp_B = self._draw(state, sampling)
        for number, token, value in zip(state.rows, next_B.tolist(), logp_B.tolist(), strict=True):
            row = self.going.get(number)
            if row is None:  # it has ended, in a cache that cannot drop it
                continue
            row.ids.append(token)
            row.logp.append(value)
            if token in stop_ids or len(row.ids) == row.request.cap(sampling):
                self.ended.append((number, _completion(row.ids, row.logp, token in stop_ids)))
                del self.going[number]
        going = [i for i, number in enumerate(state.rows) if number in self.going]
        if self.batching.joins:
            going = self._within_memory(state, going)
        if going:
            state.advance(next_B, going)
        else:
            self.state = None

    def _within_memory(self, state: Decoding, going: list[int]) -> list[int]:
        """The rows that the cache has room for after one more token. The others, those with the
        fewest tokens, wait, and are read again with what they have."""
        if len(going) * (state.columns + 1) > self.fits:
            state.forget_padding()
        most = max(1, self.fits // (state.columns + 1))
        if len(going) <= most:
            return going
        by_length = sorted(going, key=lambda i: -len(self.going[state.rows[i]].ids))
        for place in by_length[most:]:
            self.waiting.appendleft(self.going.pop(state.rows[place]))
        return sorted(by_length[:most])

    def _back_off(self, error: BaseException) -> None:
        """Begin all rows again from their tokens, in half the memory."""
        rows = sorted(self.going.values(), key=lambda row: row.index)
        columns = self.state.columns if self.state else 0
        self.state, self.going = None, {}
        if len(rows) < 2 and self.places < 2:
            raise EngineError(
                f"{named(self.model)}: there is not enough memory for one row of {columns} tokens",
                hint="free some, or lower the stage's max_new_tokens",
            ) from error
        self.waiting.extendleft(reversed(rows))
        self.places = max(1, self.places // 2)
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def _draw(self, state: Decoding, sampling: Sampling) -> tuple[Tensor, Tensor]:
        rows = [self.going.get(number) for number in state.rows]
        uniform_B = np.array([row.uniform_L[len(row.ids)] if row else 0.0 for row in rows])
        next_B, logp_B = sample(
            head_logits(state.hidden_BD, self.head),
            torch.from_numpy(uniform_B),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
        )
        if not torch.isfinite(logp_B).all():  # never of a drawn token of a sound model
            raise EngineError(
                f"{self.model.name_or_path}: its log-probs are not finite",
                hint="the weights hold NaN or infinity, or the temperature is far too small",
            )
        return next_B, logp_B


def _completion(ids: list[int], logp: list[float], stopped: bool) -> Completion:
    reason = "stop" if stopped else "length"
    return Completion(np.array(ids, np.int32), np.array(logp, np.float32), reason)
