"""From an arm's settings and a batch to its loss and the sums that are measured on the way."""

from dataclasses import dataclass

import torch
from torch import Tensor

from leyden.data.batches import TokenBatch
from leyden.data.sequences import ModelScores, TeacherColumns
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

FAR = 10.0  # nats below the student; the share of the loss from there is measured
Columns = TeacherColumns[Tensor]


@dataclass(frozen=True)
class Totals:
    """Counts of the global batch, over all micro-batches and ranks."""

    num_sequences: int
    num_tokens: int


def compute_loss(
    student: StudentLM,
    batch: TokenBatch,
    settings: Optimisation,
    totals: Totals,
    *,
    measuring: bool = False,
) -> tuple[Tensor, Sums]:
    """This micro-batch's part of the global loss, by one forward, and its sums of metrics.

    While ``measuring``, the rollouts are held-out ones of the reference policy: the stored top k is
    scored whatever the objective, and drift is measured even of an arm that trains on fresh ones.
    """
    if not isinstance(settings, Objective) or settings.objective == "sft":
        logp_N = student(batch, batch.target_N)
        loss_N, sums = sft_loss(logp_N), {}
    else:
        loss_N, sums = _distillation_loss(student, batch, settings, measuring)
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
    student: StudentLM, batch: TokenBatch, settings: Objective, measuring: bool
) -> tuple[Tensor, Sums]:
    """[N] losses with importance weights and the penalty against leaving the reference."""
    columns = batch.columns
    assert columns is not None, "distillation trains on scored rollouts"
    ids_NK = batch.target_N[:, None]
    if columns.topk_ids is not None and (settings.objective != "sampled" or measuring):
        ids_NK = torch.cat([ids_NK, columns.topk_ids], -1)  # one forward for both
    logp_NK = student(batch, ids_NK)
    logp_N, topk_NK = logp_NK[:, 0], logp_NK[:, 1:]
    loss_N = _match(logp_N, topk_NK, columns.teacher, settings)
    # Drift and ratios compare with the policy that wrote the rollouts. Fresh ones are the
    # student's own, and the reference did not write them.
    fresh = settings.refresh_every > 0 and not measuring
    reference_N = None if fresh else _reference(columns).logp
    teacher_N = columns.teacher.logp
    sums = policy_sums(logp_N.detach(), teacher_N, reference_N, batch.sequence_N)
    sums["match_loss"] = loss_N.detach().sum()  # before weights and penalty
    sums["far_loss"] = loss_N.detach()[teacher_N < logp_N.detach() - FAR].sum()
    if topk_NK.shape[1]:
        sums |= _topk_sums(topk_NK.detach(), columns.teacher)
    if settings.importance != "none":
        weight_N = _weights(logp_N, batch, columns, settings)
        loss_N, sums = weight_N * loss_N, sums | importance_sums(weight_N)
    if settings.kl_to_reference:
        penalty_N = _match(logp_N, topk_NK, _reference(columns), settings)
        loss_N = loss_N + settings.kl_to_reference * penalty_N
    return loss_N, sums


def _reference(columns: Columns) -> ModelScores[Tensor]:
    assert columns.reference is not None, "the rollouts were scored without the reference policy"
    return columns.reference


def _weights(logp_N: Tensor, batch: TokenBatch, columns: Columns, settings: Objective) -> Tensor:
    """The arm's importance weights. A loss that sums over actions takes those of the prefix."""
    kind = settings.importance
    if kind == "prefix" and settings.objective != "sampled":
        kind = "prefix_before"
    reference_N, cap = _reference(columns).logp, settings.importance_cap
    return importance_weights(logp_N, reference_N, batch.sequence_N, kind=kind, cap=cap)


def _topk_sums(topk_NK: Tensor, teacher: ModelScores[Tensor]) -> Sums:
    """Mass inside the stored ids, and the reverse KL over them and their tail."""
    teacher_NK, tail_N = _top_k(teacher)
    return {
        "student_covered": (1 - log_tail(topk_NK).exp()).sum(),
        "teacher_covered": (1 - tail_N.exp()).sum(),
        "kl_topk": topk_tail_loss(topk_NK, teacher_NK, tail_N).sum(),
    }


def _match(
    logp_N: Tensor, topk_NK: Tensor, target: ModelScores[Tensor], settings: Objective
) -> Tensor:
    """The divergence of the arm's objective from ``target``, the teacher or the reference, [N]."""
    if settings.objective == "sampled":
        return sampled_loss(logp_N, target.logp, clip=settings.advantage_clip)
    target_NK, tail_N = _top_k(target)
    if settings.objective == "topk":
        return topk_loss(topk_NK, target_NK)
    return topk_tail_loss(topk_NK, target_NK, tail_N)


def _top_k(scores: ModelScores[Tensor]) -> tuple[Tensor, Tensor]:
    """Log-probs at the stored ids, [N, K], and their tail, [N]."""
    assert scores.topk_logp is not None and scores.tail_logp is not None, "no stored top k"
    return scores.topk_logp, scores.tail_logp
