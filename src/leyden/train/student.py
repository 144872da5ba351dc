"""The student as a module from a batch to log-probs: one forward, also for a sharded model."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from leyden.data.batches import TokenBatch
from leyden.logprobs import token_logprobs
from leyden.models.load import hidden_states
from leyden.models.parts import head_of


class StudentLM(nn.Module):
    """``forward(batch, ids_NK)`` gives log-probs [N, K] of the ids at each completion token.

    Master weights are float32; ``compute_dtype`` bfloat16 runs the backbone under autocast.
    Log-probs are over the ids below ``vocab_size``, all of them by default.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        chunk: int,
        vocab_size: int | None = None,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.model = model
        self.chunk = chunk
        self.vocab_size = vocab_size
        self.compute_dtype = compute_dtype

    def forward(self, batch: TokenBatch, ids_NK: Tensor) -> Tensor:
        hidden_ND = hidden_states(self.model, batch, compute_dtype=self.compute_dtype)
        head = head_of(self.model, self.vocab_size)
        return token_logprobs(hidden_ND, head, ids_NK, chunk=self.chunk)
