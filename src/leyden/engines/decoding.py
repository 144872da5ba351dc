"""A loaded Transformers model that samples and scores batches of requests."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from leyden.data.batches import batched, collate, split_by_tokens
from leyden.data.sequences import TokenSequence
from leyden.engines.base import Completion, GenerateRequest, ScoreRequest, TokenScores, TopK
from leyden.engines.cached import Batching, Decoding, batching_of
from leyden.engines.sampling import sample, uniforms
from leyden.errors import EngineError
from leyden.logprobs import ScoreTensors, TopKTensors, head_logits, score_tokens
from leyden.models.load import DTYPES, hidden_states
from leyden.models.parts import head_of
from leyden.recipe.sampling import Sampling
from leyden.recipe.schema import Execution


class LoadedModel:
    """A model in memory. Log-probs are over the ids below ``vocab_size``, all of them by None.

    Scoring batches have this ``layout``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        execution: Execution,
        vocab_size: int | None,
        layout: str = "padded",
    ) -> None:
        self.model, self.execution, self.layout = model, execution, layout
        self.head = head_of(model, vocab_size)
        self.compute_dtype = DTYPES[execution.dtype]

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[GenerateRequest], sampling: Sampling, stop_ids: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        """(index, completion) as completions end; batches are of similar prompt length."""
        batching = batching_of(self.model)
        # Similar lengths waste little padding. The index makes the order, and so the bits, certain.
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), i))
        for group in _batches(order, requests, self.execution.generate_batch_size, batching):
            rows = [requests[i] for i in group]
            for row, completion in self._generate(rows, sampling, stop_ids, batching):
                yield group[row], completion

    def _generate(
        self,
        requests: Sequence[GenerateRequest],
        sampling: Sampling,
        stop_ids: Sequence[int],
        batching: Batching,
    ) -> Iterator[tuple[int, Completion]]:
        """One batch, token by token, until every row has stopped or reached the cap."""
        prompts = [r.prompt_ids for r in requests]
        state = Decoding.begin(self.model, self.compute_dtype, prompts, batching)
        uniform_BL = uniforms([r.seed for r in requests], sampling.max_new_tokens)
        ids: list[list[int]] = [[] for _ in requests]
        logp: list[list[float]] = [[] for _ in requests]
        ended: set[int] = set()
        for step in range(sampling.max_new_tokens):
            next_B, logp_B = self._draw(state, uniform_BL[state.rows, step], sampling)
            last = step + 1 == sampling.max_new_tokens
            for row, token, value in zip(state.rows, next_B.tolist(), logp_B.tolist(), strict=True):
                if row in ended:  # it stays in the batch where the cache cannot drop it
                    continue
                ids[row].append(token)
                logp[row].append(value)
                if token in stop_ids or last:
                    ended.add(row)
                    yield row, _completion(ids[row], logp[row], token in stop_ids)
            if len(ended) == len(requests):
                return
            state.advance(next_B, [i for i, row in enumerate(state.rows) if row not in ended])

    def _draw(
        self, state: Decoding, uniform_B: np.ndarray, sampling: Sampling
    ) -> tuple[Tensor, Tensor]:
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

    @torch.inference_mode()
    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, TokenScores]]:
        """(index, scores) of every request, a batch of similar lengths at a time."""
        sequences = [TokenSequence(r.prompt_ids, r.completion_ids) for r in requests]
        budget = self.execution.batch_tokens
        lengths, layout = [len(s) for s in sequences], self.layout
        for group in split_by_tokens(lengths, budget=budget, layout=layout):
            batch = collate([sequences[i] for i in group], layout=layout).to(self.model.device)
            asked = [requests[i] for i in group]
            scores = score_tokens(
                hidden_states(self.model, batch, compute_dtype=self.compute_dtype),
                self.head,
                batch.target_N,
                top_k=asked[0].top_k,
                at_ids_NK=_at_ids(asked, self.model.device),
                chunk=self.execution.logprob_chunk_tokens,
            )
            counts = [len(sequences[i].completion_ids) for i in group]
            yield from zip(group, _split(scores, counts), strict=True)


def _batches(
    order: Sequence[int], requests: Sequence[GenerateRequest], size: int, batching: Batching
) -> Iterator[Sequence[int]]:
    """Parts of ``order`` that are sampled together; ``order`` is by prompt length."""
    if batching.pads:
        yield from batched(order, size)
        return
    for _, same_length in groupby(order, key=lambda i: len(requests[i].prompt_ids)):
        yield from batched(list(same_length), size)


def _completion(ids: list[int], logp: list[float], stopped: bool) -> Completion:
    reason = "stop" if stopped else "length"
    return Completion(np.array(ids, np.int32), np.array(logp, np.float32), reason)


def _at_ids(requests: Sequence[ScoreRequest], device: torch.device) -> Tensor | None:
    """The ids to score of a batch, [N, K]; its requests ask alike."""
    given = [r.at_ids for r in requests if r.at_ids is not None]
    assert len(given) in (0, len(requests)), "some requests name ids to score and some do not"
    assert len({r.top_k for r in requests}) == 1, "requests of one batch ask for one top_k"
    return torch.from_numpy(np.concatenate(given).astype(np.int64)).to(device) if given else None


def _split(scores: ScoreTensors, counts: list[int]) -> list[TokenScores]:
    """The scores of consecutive sequences, one by one, as NumPy."""
    parts = [slice(end - n, end) for end, n in zip(accumulate(counts), counts, strict=True)]
    return [
        TokenScores(
            _numpy(scores.logp_N[part]), _numpy(scores.entropy_N[part]), _top_k(scores.top_k, part)
        )
        for part in parts
    ]


def _top_k(top_k: TopKTensors | None, part: slice) -> TopK | None:
    if top_k is None:
        return None
    columns = (top_k.ids_NK, top_k.logp_NK, top_k.tail_N)
    return TopK(*(_numpy(column[part]) for column in columns), tail_is="exact")


def _numpy(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()
