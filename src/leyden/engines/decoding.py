"""A loaded Transformers model that samples and scores batches of requests."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from leyden.data.batches import batched, collate, split_by_tokens
from leyden.data.sequences import TokenSequence
from leyden.engines.base import Completion, GenerateRequest, ScoreRequest, TokenScores, TopK
from leyden.engines.sampling import sample, uniforms
from leyden.errors import EngineError
from leyden.logprobs import ScoreTensors, TopKTensors, head_logits, score_tokens
from leyden.models.load import DTYPES, backbone, computing, head_of, hidden_states
from leyden.recipe.sampling import Sampling
from leyden.recipe.schema import Execution


class LoadedModel:
    """A model in memory. Log-probs are over the ids below ``vocab_size``, all of them by None."""

    def __init__(
        self, model: PreTrainedModel, execution: Execution, vocab_size: int | None
    ) -> None:
        self.model, self.execution = model, execution
        self.head = head_of(model, vocab_size)
        self.compute_dtype = DTYPES[execution.dtype]

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[GenerateRequest], sampling: Sampling, stop_ids: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        """(index, completion) as completions end; batches are of similar prompt length."""
        # Similar lengths waste little padding. The index makes the order, and so the bits, certain.
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), i))
        for group in batched(order, self.execution.generate_batch_size):
            rows = [requests[i] for i in group]
            for row, completion in self._generate(rows, sampling, stop_ids):
                yield group[row], completion

    def _generate(
        self, requests: Sequence[GenerateRequest], sampling: Sampling, stop_ids: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        """One batch, token by token, until every row has stopped or reached the cap."""
        state = _Decoding.begin(self.model, self.compute_dtype, [r.prompt_ids for r in requests])
        uniform_BL = uniforms([r.seed for r in requests], sampling.max_new_tokens)
        ids: list[list[int]] = [[] for _ in requests]
        logp: list[list[float]] = [[] for _ in requests]
        for step in range(sampling.max_new_tokens):
            next_B, logp_B = self._draw(state, uniform_BL[state.rows, step], sampling)
            for row, token, value in zip(state.rows, next_B.tolist(), logp_B.tolist(), strict=True):
                ids[row].append(token)
                logp[row].append(value)
            stopped = [ids[row][-1] in stop_ids for row in state.rows]
            last = step + 1 == sampling.max_new_tokens
            for row, stop in zip(state.rows, stopped, strict=True):
                if stop or last:
                    yield row, _completion(ids[row], logp[row], stop)
            going = [i for i, stop in enumerate(stopped) if not stop]
            if last or not going:
                return
            state.advance(next_B, going)

    def _draw(
        self, state: "_Decoding", uniform_B: np.ndarray, sampling: Sampling
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
        for group in split_by_tokens([len(s) for s in sequences], budget=budget):
            batch = collate([sequences[i] for i in group]).to(self.model.device)
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


class _Decoding:
    """A batch of growing sequences: left-padded prompts, the KV cache, and who is still going.

    ``hidden_BD`` are the states that predict the next token of each. ``rows`` says which request
    each row of the batch belongs to.
    """

    def __init__(
        self, model: PreTrainedModel, dtype: torch.dtype, mask_BT: Tensor, rows: list[int]
    ) -> None:
        self.model, self.dtype, self.rows = model, dtype, rows
        self.cache = DynamicCache(config=model.config)
        self.mask_BT = mask_BT
        self.next_position_B = mask_BT.sum(-1)

    @classmethod
    def begin(
        cls, model: PreTrainedModel, dtype: torch.dtype, prompts: Sequence[Sequence[int]]
    ) -> "_Decoding":
        """Read the prompts, left-padded so that all of them end at the same position."""
        longest = max(map(len, prompts))
        ids_BT = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask_BT = torch.zeros_like(ids_BT)
        for row, prompt in enumerate(prompts):
            ids_BT[row, longest - len(prompt) :] = torch.as_tensor(np.asarray(prompt, np.int64))
            mask_BT[row, longest - len(prompt) :] = 1
        ids_BT, mask_BT = ids_BT.to(model.device), mask_BT.to(model.device)
        state = cls(model, dtype, mask_BT, list(range(len(prompts))))
        # Positions count from each prompt's first token, as in training; padding gets any.
        state._read(ids_BT, (mask_BT.cumsum(-1) - 1).clamp_min(0))
        return state

    def _read(self, ids_BT: Tensor, positions_BT: Tensor) -> None:
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
        """Append a token to the rows at the indices ``going`` and drop the other rows."""
        if len(going) < len(self.rows):
            # A row that has stopped costs nothing more.
            keep = torch.tensor(going, device=next_B.device)
            self.cache.batch_select_indices(keep)
            next_B, self.mask_BT = next_B[keep], self.mask_BT[keep]
            self.next_position_B = self.next_position_B[keep]
            self.rows = [self.rows[i] for i in going]
        self.mask_BT = torch.nn.functional.pad(self.mask_BT, (0, 1), value=1)
        self._read(next_B[:, None], self.next_position_B[:, None])
        self.next_position_B = self.next_position_B + 1
