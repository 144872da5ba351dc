"""The log-probs of given tokens under a model, from its hidden states: the one idea of this code.

SFT minimises their negative mean. Scoring computes them under the teacher. Distillation is their
regression on stored scores. Logits are made ``chunk`` tokens at a time, forward and backward, so
[N, V] never exists for a whole batch; the softmax is float32 at least (bfloat16 noise is larger
than an advantage).

Shapes: N tokens, D hidden width, V vocabulary, K ids per token. ``hidden_ND[n]`` is the state that
predicts token n, that is the model's output at the position before it.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

DEFAULT_CHUNK = 1024  # tokens: 0.6 GB of float32 logits at a vocabulary of 152k


@dataclass(frozen=True)
class Head:
    """A language-model head: ``logits = scale * (hidden @ weight_VD.T + bias_V)``.

    With a ``cap`` they are then capped softly: ``cap * tanh(logits / cap)``.
    """

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None


@dataclass(frozen=True)
class TopKTensors:
    """K ids per token, their log-probs, and the log of the mass outside them."""

    ids_NK: Tensor
    logp_NK: Tensor
    tail_N: Tensor


@dataclass(frozen=True)
class ScoreTensors:
    """The scores of N given tokens, in nats, float32, without gradient."""

    logp_N: Tensor
    entropy_N: Tensor
    top_k: TopKTensors | None = None


def token_logprobs(
    hidden_ND: Tensor, head: Head, ids_NK: Tensor, *, chunk: int = DEFAULT_CHUNK
) -> Tensor:
    """log p(ids | hidden), differentiable in ``hidden`` and ``head``.

    ``ids_NK`` int64 may also be [N]; the result has its shape, float32 (float64 for float64
    inputs).
    """
    ids = ids_NK if ids_NK.dim() == 2 else ids_NK[:, None]
    logp_NK = _TokenLogprobs.apply(hidden_ND, head.weight_VD, head.bias_V, ids, head, chunk)
    return logp_NK.view(ids_NK.shape)


class _TokenLogprobs(torch.autograd.Function):
    """Chunked gather of a log-softmax; the backward pass makes each chunk's softmax again."""

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, bias_V, ids_NK, head, chunk):
        dtype = _softmax_dtype(hidden_ND.dtype)
        logp_NK, head = ids_NK.new_empty(ids_NK.shape, dtype=dtype), _widened(head, hidden_ND)
        for part in _chunks(len(ids_NK), chunk):
            # log_softmax subtracts the maximum first: logits - logsumexp would round at its scale
            logp_CV = head_logits(hidden_ND[part], head).log_softmax(-1)
            logp_NK[part] = logp_CV.gather(-1, ids_NK[part])
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, ids_NK)
        ctx.scale, ctx.cap, ctx.chunk = head.scale, head.cap, chunk
        return logp_NK

    @staticmethod
    def backward(ctx, *grad_outputs):
        """d logp[n,k] / d logits[n,v] = [v == ids[n,k]] - p[n,v], then through the head."""
        (grad_NK,) = grad_outputs
        hidden_ND, weight_VD, bias_V, ids_NK = ctx.saved_tensors
        head = _widened(Head(weight_VD, bias_V, ctx.scale, ctx.cap), hidden_ND)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=grad_NK.dtype)
        grad_bias_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=grad_NK.dtype)
        for part in _chunks(len(ids_NK), ctx.chunk):
            logits_CV = head_logits(hidden_ND[part], head)
            slope_CV = _slope(logits_CV, head)
            grad_CV = logits_CV.softmax(-1)
            del logits_CV
            # In place: [C, V] is the largest tensor of a training step. An id may stand several
            # times in a row, as the sampled token and in the top k, so its gradients are added.
            grad_CV.mul_(-grad_NK[part].sum(-1, True))
            grad_CV.scatter_add_(-1, ids_NK[part], grad_NK[part])
            if slope_CV is not None:
                grad_CV.mul_(slope_CV)
            low_CV = grad_CV.to(hidden_ND.dtype)  # the model's own dtype for the matrix products
            grad_hidden_ND[part] = low_CV @ weight_VD.to(hidden_ND.dtype)
            grad_weight_VD += low_CV.T @ hidden_ND[part]
            if grad_bias_V is not None:
                grad_bias_V += grad_CV.sum(0)
        bias = None if grad_bias_V is None else grad_bias_V.to(bias_V.dtype)
        return grad_hidden_ND, grad_weight_VD.to(weight_VD.dtype), bias, None, None, None


def _slope(logits_CV: Tensor, head: Head) -> Tensor | float | None:
    """The derivative of final logits by ``hidden @ weight + bias``; None where it is 1."""
    if head.cap is not None:  # of cap * tanh(x / cap): 1 - tanh^2
        return head.scale * (1 - (logits_CV / head.cap).square())
    return None if head.scale == 1.0 else head.scale


@torch.no_grad()
def score_tokens(
    hidden_ND: Tensor,
    head: Head,
    ids_N: Tensor,
    *,
    top_k: int = 0,
    at_ids_NK: Tensor | None = None,
    chunk: int = DEFAULT_CHUNK,
) -> ScoreTensors:
    """Score given tokens without gradient, and also the ``top_k`` likeliest ids or ``at_ids_NK``.

    The tail is summed from the other logits: 1 minus the top k is rounding noise where the model
    is certain.
    """
    parts: list[ScoreTensors] = []
    head = _widened(head, hidden_ND)
    for part in _chunks(len(ids_N), chunk):
        logp_CV = head_logits(hidden_ND[part], head).log_softmax(-1)
        ids_CK = logp_CV.topk(top_k).indices if at_ids_NK is None else at_ids_NK[part]
        logp_C, logp_CK = logp_CV.gather(-1, ids_N[part, None])[:, 0], logp_CV.gather(-1, ids_CK)
        entropy_C = _entropy(logp_CV)  # from here on log-probs are overwritten, to save memory
        block = None
        if ids_CK.shape[1]:
            rest_CV = logp_CV.scatter_(-1, ids_CK, -torch.inf)  # without the K ids
            block = TopKTensors(ids_CK, logp_CK, rest_CV.logsumexp(-1))
        parts.append(ScoreTensors(logp_C, entropy_C, block))
    return _concatenate(parts)


def _concatenate(parts: list[ScoreTensors]) -> ScoreTensors:
    blocks = [part.top_k for part in parts if part.top_k is not None]
    block = None
    if blocks:
        columns = zip(*((b.ids_NK, b.logp_NK, b.tail_N) for b in blocks), strict=True)
        block = TopKTensors(*(torch.cat(column) for column in columns))
    return ScoreTensors(
        torch.cat([part.logp_N for part in parts]),
        torch.cat([part.entropy_N for part in parts]),
        block,
    )


@torch.no_grad()
def reverse_kl(
    hidden_ND: Tensor, head: Head, other_ND: Tensor, other: Head, *, chunk: int = DEFAULT_CHUNK
) -> Tensor:
    """KL(first || other) over the whole vocabulary at every token, [N], nats, exact.

    The two models may differ in width; they share the vocabulary.
    """
    parts = []
    head, other = _widened(head, hidden_ND), _widened(other, other_ND)
    for part in _chunks(len(hidden_ND), chunk):
        logp_CV = head_logits(hidden_ND[part], head).log_softmax(-1)
        other_CV = head_logits(other_ND[part], other).log_softmax(-1)
        parts.append((logp_CV.exp() * (logp_CV - other_CV)).sum(-1))
    return torch.cat(parts)


def head_logits(hidden_CD: Tensor, head: Head) -> Tensor:
    """[C, V] logits, never rounded to bfloat16: products of low-precision inputs, in float32."""
    dtype = _softmax_dtype(hidden_CD.dtype)
    if hidden_CD.is_cuda and hidden_CD.dtype != dtype:
        # CUDA multiplies bfloat16 into float32; on a CPU the inputs are widened instead.
        weight_VD = head.weight_VD.to(hidden_CD.dtype)
        logits_CV = torch.mm(hidden_CD, weight_VD.T, out_dtype=dtype)
    else:
        logits_CV = hidden_CD.to(dtype) @ head.weight_VD.to(dtype).T
    if head.bias_V is not None:
        logits_CV = logits_CV + head.bias_V.to(dtype)
    if head.scale != 1.0:
        logits_CV = logits_CV * head.scale
    return logits_CV if head.cap is None else head.cap * torch.tanh(logits_CV / head.cap)


def _widened(head: Head, hidden_ND: Tensor) -> Head:
    """The head in float32 where a CPU would widen its weights for every chunk; once is enough."""
    dtype = _softmax_dtype(hidden_ND.dtype)
    if hidden_ND.is_cuda or head.weight_VD.dtype == dtype:
        return head
    return replace(head, weight_VD=head.weight_VD.to(dtype))


def _entropy(logp_CV: Tensor) -> Tensor:
    """[C] nats, at the cost of one more [C, V]. Overwrites log-probs of -inf, which add nothing."""
    least = torch.finfo(logp_CV.dtype).min  # for -inf, which times 0 would be NaN
    return -logp_CV.exp().mul_(logp_CV.clamp_min_(least)).sum(-1)


def _softmax_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _chunks(num_tokens: int, chunk: int):
    return [slice(start, start + chunk) for start in range(0, num_tokens, chunk)]
