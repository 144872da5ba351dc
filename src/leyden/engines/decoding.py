"""A loaded Transformers model that samples and scores batches of requests."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from leyden.data.batches import collate, split_by_tokens
from leyden.data.sequences import TokenSequence
from leyden.engines.base import Completion, GenerateRequest, ScoreRequest, TokenScores, TopK
from leyden.engines.stream import Stream
from leyden.logprobs import ScoreTensors, TopKTensors, score_tokens
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

    def generate(
        self,
        requests: Iterable[GenerateRequest],
        sampling: Sampling,
        stop_ids: Sequence[int],
    ) -> Iterator[tuple[int, Completion]]:
        """(index, completion) as completions end."""
        stream = Stream(self.model, self.head, self.compute_dtype, self.execution)
        yield from stream.generate(requests, sampling, stop_ids)

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
