"""The engine that works everywhere and is the others' oracle: Transformers, own sampling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from leyden.data.batches import batched, collate, split_by_tokens
from leyden.data.sequences import TokenSequence
from leyden.engines.sampling import sample, uniforms
from leyden.errors import EngineError
from leyden.logprobs import TokenScores, head_logits, score_tokens
from leyden.models.load import DTYPES, computing, head_of, hidden_states, load_model
from leyden.recipe.schema import Execution, Sampling


@dataclass(frozen=True)
class GenerateRequest:
    """Continue ``prompt_ids``; the same seed gives the same completion."""

    prompt_ids: Sequence[int]
    seed: int


@dataclass(frozen=True)
class Completion:
    """``ids`` int32 as sampled, stop token included; ``logp`` float32 under the sampler's
    transform; ``finish_reason`` "stop" or "length" (cut at the cap, no stop token)."""

    ids: np.ndarray
    logp: np.ndarray
    finish_reason: str


class TransformersEngine:
    """One loaded model that samples and scores."""

    def __init__(
        self, model: PreTrainedModel, execution: Execution, vocab_size: int | None = None
    ) -> None:
        self.model = model
        self.execution = execution
        self.head = head_of(model, vocab_size)

    @classmethod
    def load(
        cls, folder: Path, execution: Execution, vocab_size: int, *, as_trained: bool = False
    ) -> "TransformersEngine":
        """``as_trained`` keeps float32 weights and computes as the trainer does, to the bit."""
        dtype = "float32" if as_trained else execution.dtype
        return cls(load_model(folder, device=execution.device, dtype=dtype), execution, vocab_size)

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[GenerateRequest],
        sampling: Sampling,
        stop_ids: Sequence[int],
        *,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> list[Completion]:
        """One completion per request, in order; batches are of similar prompt length.

        ``progress`` is told how many more are complete.
        """
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), i))
        done: dict[int, Completion] = {}
        for group in batched(order, self.execution.generate_batch_size):
            rows = [requests[i] for i in group]
            done.update(zip(group, self._generate(rows, sampling, stop_ids, progress), strict=True))
        return [done[i] for i in range(len(requests))]

    def _generate(self, requests, sampling, stop_ids, progress) -> list[Completion]:
        dtype = DTYPES[self.execution.dtype]
        state = _Decoding.begin(self.model, dtype, [r.prompt_ids for r in requests])
        head = self.head
        uniform_BL = uniforms([r.seed for r in requests], sampling.max_new_tokens)
        ids: list[list[int]] = [[] for _ in requests]
        logp: list[list[float]] = [[] for _ in requests]
        for step in range(sampling.max_new_tokens):
            uniform_B = torch.from_numpy(uniform_BL[state.rows, step])
            next_B, logp_B = sample(
                head_logits(state.hidden_BD, head),
                uniform_B,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
            )
            if not torch.isfinite(logp_B).all():
                raise EngineError(
                    f"{self.model.name_or_path}: its log-probs are not finite",
                    hint="the weights hold NaN or infinity, or the temperature is far too small",
                )
            tokens = next_B.tolist()
            for row, token, value in zip(state.rows, tokens, logp_B.tolist(), strict=True):
                ids[row].append(token)
                logp[row].append(value)
            going = [i for i, token in enumerate(tokens) if token not in stop_ids]
            progress(len(tokens) - len(going))
            if not going or step + 1 == sampling.max_new_tokens:
                progress(len(going))
                break
            state.advance(next_B, going)
        return [
            Completion(
                np.array(i, np.int32),
                np.array(p, np.float32),
                "stop" if i[-1] in stop_ids else "length",
            )
            for i, p in zip(ids, logp, strict=True)
        ]

    @torch.inference_mode()
    def score(
        self,
        sequences: Sequence[TokenSequence],
        *,
        top_k: int = 0,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> list[TokenScores]:
        """Scores of every completion token, per sequence, on the CPU.

        A column ``topk_ids`` [T, K] in the sequences asks for log-probs at those ids instead of the
        model's own ``top_k``. ``progress`` is told how many more sequences are scored.
        """
        done: dict[int, TokenScores] = {}
        budget = self.execution.batch_tokens
        for group in split_by_tokens([len(s) for s in sequences], budget=budget):
            batch = collate([sequences[i] for i in group]).to(self.model.device)
            scores = score_tokens(
                hidden_states(self.model, batch, compute_dtype=DTYPES[self.execution.dtype]),
                self.head,
                batch.target_N,
                top_k=top_k,
                at_ids_NK=batch.columns.get("topk_ids"),
                chunk=self.execution.logprob_chunk_tokens,
            )
            counts = [len(sequences[i].completion_ids) for i in group]
            done.update(zip(group, _split(scores, counts), strict=True))
            progress(len(counts))
        return [done[i] for i in range(len(sequences))]


class _Decoding:
    """A batch of growing sequences: left-padded prompts, the KV cache, and who is still going.

    ``hidden_BD`` are the states that predict the next token of each.
    """

    def __init__(self, model, dtype, mask_BT: Tensor, rows: list[int]) -> None:
        self.model, self.dtype, self.rows = model, dtype, rows
        self.cache = DynamicCache(config=model.config)
        self.mask_BT = mask_BT
        self.next_position_B = mask_BT.sum(-1)

    @classmethod
    def begin(
        cls, model: PreTrainedModel, dtype: torch.dtype, prompts: Sequence[Sequence[int]]
    ) -> "_Decoding":
        longest = max(map(len, prompts))
        ids_BT = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask_BT = torch.zeros_like(ids_BT)
        for row, prompt in enumerate(prompts):
            ids_BT[row, longest - len(prompt) :] = torch.as_tensor(np.asarray(prompt, np.int64))
            mask_BT[row, longest - len(prompt) :] = 1
        ids_BT, mask_BT = ids_BT.to(model.device), mask_BT.to(model.device)
        state = cls(model, dtype, mask_BT, list(range(len(prompts))))
        state._read(ids_BT, (mask_BT.cumsum(-1) - 1).clamp_min(0))
        return state

    def _read(self, ids_BT: Tensor, positions_BT: Tensor) -> None:
        with computing(self.model, self.dtype):
            output = self.model.base_model(
                input_ids=ids_BT,
                attention_mask=self.mask_BT,
                position_ids=positions_BT,
                past_key_values=self.cache,
                use_cache=True,
            )
        self.hidden_BD = output.last_hidden_state[:, -1]

    def advance(self, next_B: Tensor, going: list[int]) -> None:
        """Append a token to the rows at indices ``going`` and drop the others."""
        if len(going) < len(self.rows):
            keep = torch.tensor(going, device=next_B.device)
            self.cache.batch_select_indices(keep)
            next_B, self.mask_BT = next_B[keep], self.mask_BT[keep]
            self.next_position_B = self.next_position_B[keep]
            self.rows = [self.rows[i] for i in going]
        self.mask_BT = torch.nn.functional.pad(self.mask_BT, (0, 1), value=1)
        self._read(next_B[:, None], self.next_position_B[:, None])
        self.next_position_B = self.next_position_B + 1


def _split(scores: TokenScores, counts: list[int]) -> list[TokenScores]:
    """Scores of consecutive sequences, one by one, on the CPU."""
    ends = list(accumulate(counts))
    parts = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    return [scores.map(lambda t, part=part: t[part].cpu()) for part in parts]
