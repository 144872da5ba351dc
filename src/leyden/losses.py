"""The losses, as pure functions of aligned per-token tensors. Torch and nothing of ours.

Every loss returns one value per token, [N]; ``token_weights`` turns token values into one number
that does not depend on how the batch was split. Shapes: N completion tokens of B sequences, K
stored ids per token; ``sequence_N`` int64 says which sequence a token belongs to, in order.
Log-probs are in nats.
"""

import torch
from torch import Tensor

TOKEN_CAP, PREFIX_CAP = 2.0, 3.0  # truncation of the ratio; method section 2, table of options


def sft_loss(logp_N: Tensor) -> Tensor:
    """Negative log-likelihood of the teacher's tokens."""
    return -logp_N


def sampled_loss(logp_N: Tensor, teacher_N: Tensor, *, clip: float) -> Tensor:
    """Huber function, delta = tau = ``clip``, of the live advantage log pi_T - log pi_theta.

    Its gradient is the paper's update -clip(A, -tau, tau) grad log pi_theta exactly, since
    grad A^2/2 = -A grad log pi_theta; unlike the policy-gradient form its value is a true
    objective. Source: arXiv 2604.13010 and method section 2. The advantage is never frozen at the
    reference: that objective has no interior optimum.
    """
    advantage_N = teacher_N - logp_N
    size_N = advantage_N.abs()
    return torch.where(size_N <= clip, 0.5 * advantage_N**2, clip * (size_N - 0.5 * clip))


def topk_loss(logp_NK: Tensor, teacher_NK: Tensor) -> Tensor:
    """Reverse KL(student || teacher), both renormalised over the K stored ids.

    Renormalising is not optional: without it reverse KL over k ids has a spurious term and
    collapses (arXiv 2605.11182). The student's mass outside the ids stays free.
    """
    student_NK = logp_NK.log_softmax(-1)
    return (student_NK.exp() * (student_NK - teacher_NK.log_softmax(-1))).sum(-1)


def topk_tail_loss(logp_NK: Tensor, teacher_NK: Tensor, teacher_tail_N: Tensor) -> Tensor:
    """Reverse KL(student || teacher) over the K stored ids and one bucket for all others.

    A lower bound of the full reverse KL (log-sum inequality), tight as K grows to V. Where the
    teacher's tail is -inf the K ids are the whole vocabulary, and the bucket is left out.
    """
    tail_N, none_N = log_tail(logp_NK), teacher_tail_N == -torch.inf
    # -inf is replaced before the product: 0 * inf would be nan, also in the gradient.
    inside_N = (logp_NK.exp() * (logp_NK - teacher_NK)).sum(-1)
    bucket_N = tail_N.exp() * (tail_N - teacher_tail_N.masked_fill(none_N, 0.0))
    return inside_N + bucket_N.masked_fill(none_N, 0.0)


def log_tail(logp_NK: Tensor) -> Tensor:
    """log(1 - sum_k p_k), the mass outside the ids, floored at the dtype's rounding error."""
    # Where the student is certain, the sum of K rounded probabilities can be 1 or a little more.
    floor = torch.finfo(logp_NK.dtype).eps
    return torch.log((1 - logp_NK.exp().sum(-1)).clamp_min(floor))


def importance_weights(
    logp_N: Tensor, reference_N: Tensor, sequence_N: Tensor, *, kind: str, cap: float | None
) -> Tensor:
    """Detached, truncated ratios student / reference, [N].

    ``token``: w_t, which removes the action part of the online-offline gap exactly where not
    truncated; ``prefix``: the product of w_1..w_t; ``prefix_before``: the product of w_1..w_{t-1},
    for losses that sum over actions; ``sequence``: the product over the whole sequence, at each of
    its tokens.
    """
    ratio_N = (logp_N - reference_N).detach()  # logarithms, so that products are sums
    if kind == "none":
        return torch.ones_like(ratio_N)
    if kind == "token":
        return ratio_N.exp().clamp_max(TOKEN_CAP if cap is None else cap)
    running_N = running_sum(ratio_N, sequence_N)
    if kind == "prefix_before":
        running_N = running_N - ratio_N
    elif kind == "sequence":
        # The running sum at a sequence's last token is the whole sequence's; every token gets it.
        last_N = sequence_N.diff(append=sequence_N[-1:] + 1) != 0
        running_N = running_N[last_N][torch.unique_consecutive(sequence_N, return_inverse=True)[1]]
    return running_N.exp().clamp_max(PREFIX_CAP if cap is None else cap)


def running_sum(values_N: Tensor, sequence_N: Tensor) -> Tensor:
    """Cumulative sum that starts anew at each sequence."""
    # In float64: one sum runs over all sequences, and what came before each is subtracted again.
    total_N = values_N.double().cumsum(0)
    first_N = sequence_N.diff(prepend=sequence_N[:1] - 1) != 0
    before_N = (total_N - values_N)[first_N]
    index_N = torch.unique_consecutive(sequence_N, return_inverse=True)[1]
    return (total_N - before_N[index_N]).to(values_N.dtype)


def token_weights(
    lengths_N: Tensor,
    *,
    reduction: str,
    num_sequences: int,
    num_tokens: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The weight of each token in the global loss, [N]: the loss is the weighted sum.

    ``lengths_N``: completion tokens of the token's own sequence. ``num_sequences`` and
    ``num_tokens`` count the *global* batch, over all micro-batches and ranks, so no split changes
    the result.
    """
    if reduction == "sequence_mean":  # 1/B sum_seq 1/len sum_t
        return 1.0 / (lengths_N.to(dtype) * num_sequences)
    share = {"token_mean": 1.0 / num_tokens, "sequence_sum": 1.0 / num_sequences}[reduction]
    return torch.full(lengths_N.shape, share, dtype=dtype, device=lengths_N.device)
