"""From an arm's settings and a batch to its loss and what is measured on the way."""

from dataclasses import dataclass

import torch
from torch import Tensor

from leyden.data.batches import TokenBatch
from leyden.losses import (
    importance_weights,
    log_tail,
    sampled_loss,
    sft_loss,
    token_weights,
    topk_loss,
    topk_tail_loss,
)
from leyden.recipe.training import Objective, Optimisation
from leyden.train.metrics import Sums, importance_sums, policy_sums
from leyden.train.student import StudentLM

FAR = 10.0  # nats below the student; how much of the loss lies there


@dataclass(frozen=True)
class Totals:
    """Of the global batch, over all micro-batches and ranks."""

    num_sequences: int
    num_tokens: int


def compute_loss(
    student: StudentLM, batch: TokenBatch, settings: Optimisation, totals: Totals
) -> tuple[Tensor, Sums]:
    """This micro-batch's part of the global loss (one forward), and its sums of metrics."""
    if not isinstance(settings, Objective) or settings.objective == "sft":
        logp_N = student(batch, batch.target_N)
        loss_N, sums = sft_loss(logp_N), {}
    else:
        loss_N, sums = _distillation_loss(student, batch, settings)
    weights_N = token_weights(
        batch.lengths_N,
        reduction=settings.reduction,
        num_sequences=totals.num_sequences,
        num_tokens=totals.num_tokens,
        dtype=loss_N.dtype,
    )
    loss = (weights_N * loss_N).sum()
    sums |= {"loss": loss.detach(), "token_loss": loss_N.detach().sum()}
    return loss, sums | {"tokens": torch.tensor(float(len(loss_N)), device=loss.device)}


def _distillation_loss(
    student: StudentLM, batch: TokenBatch, settings: Objective
) -> tuple[Tensor, Sums]:
    """[N] losses with importance weights and the penalty against leaving the reference."""
    dense, columns = settings.objective != "sampled", batch.columns
    ids_NK = batch.target_N[:, None]
    if "topk_ids" in columns and (dense or not torch.is_grad_enabled()):
        ids_NK = torch.cat([ids_NK, columns["topk_ids"]], -1)
    logp_NK = student(batch, ids_NK)
    logp_N, topk_NK = logp_NK[:, 0], logp_NK[:, 1:]
    loss_N = _match(logp_N, topk_NK, columns, settings, model="teacher")
    fresh = settings.refresh_every and torch.is_grad_enabled()
    reference_N = None if fresh else columns["logp_reference"]  # ratios are of its own rollouts
    sums = policy_sums(logp_N.detach(), columns["logp_teacher"], reference_N, batch.sequence_N)
    sums["match_loss"] = loss_N.detach().sum()  # before weights and penalty
    sums["far_loss"] = loss_N.detach()[columns["logp_teacher"] < logp_N.detach() - FAR].sum()
    if topk_NK.shape[1]:
        sums |= _topk_sums(topk_NK.detach(), columns)
    if settings.importance != "none":
        weight_N = _weights(logp_N, batch, settings)
        loss_N, sums = weight_N * loss_N, sums | importance_sums(weight_N)
    if settings.kl_to_reference:
        penalty_N = _match(logp_N, topk_NK, columns, settings, model="reference")
        loss_N = loss_N + settings.kl_to_reference * penalty_N
    return loss_N, sums


def _weights(logp_N: Tensor, batch: TokenBatch, settings: Objective) -> Tensor:
    """The arm's importance weights; a loss that sums over actions takes those of the prefix."""
    kind = settings.importance
    if kind == "prefix" and settings.objective != "sampled":
        kind = "prefix_before"
    reference_N, cap = batch.columns["logp_reference"], settings.importance_cap
    return importance_weights(logp_N, reference_N, batch.sequence_N, kind=kind, cap=cap)


def _topk_sums(topk_NK: Tensor, columns: dict[str, Tensor]) -> Sums:
    """Mass inside the stored ids, and the reverse KL that they show."""
    teacher_NK, tail_N = columns["teacher_topk_logp"], columns["teacher_tail_logp"]
    return {
        "student_covered": (1 - log_tail(topk_NK).exp()).sum(),
        "teacher_covered": (1 - tail_N.exp()).sum(),
        "kl_topk": topk_tail_loss(topk_NK, teacher_NK, tail_N).sum(),
    }


def _match(
    logp_N: Tensor, topk_NK: Tensor, columns: dict[str, Tensor], settings: Objective, *, model: str
) -> Tensor:
    """The divergence of the arm's objective from ``model``, the teacher or the reference."""
    if settings.objective == "sampled":
        return sampled_loss(logp_N, columns[f"logp_{model}"], clip=settings.advantage_clip)
    target_NK = columns[f"{model}_topk_logp"]
    if settings.objective == "topk":
        return topk_loss(topk_NK, target_NK)
    return topk_tail_loss(topk_NK, target_NK, columns[f"{model}_tail_logp"])
