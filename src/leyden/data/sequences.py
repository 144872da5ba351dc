"""A prompt with its completion, and its scores under teacher and reference. No torch.

The columns are NumPy arrays in a sequence and torch tensors in a batch, so their type is a
parameter A. N is the number of completion tokens: of one sequence, or of all in a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class ModelScores(Generic[A]):
    """Log-probs of one model at temperature 1, float32, nats, never padded.

    ``topk_logp`` [N, K] is at the shared ``topk_ids`` and ``tail_logp`` [N] the log of the mass
    outside them; both or neither.
    """

    logp: A
    topk_logp: A | None = None
    tail_logp: A | None = None

    def map(self, change: Callable[[A], B]) -> "ModelScores[B]":
        """The same with ``change`` applied to every column."""
        return ModelScores(
            change(self.logp),
            None if self.topk_logp is None else change(self.topk_logp),
            None if self.tail_logp is None else change(self.tail_logp),
        )


@dataclass(frozen=True)
class TeacherColumns(Generic[A]):
    """The score store's columns for N completion tokens.

    ``topk_ids`` int64 [N, K] are the teacher's likeliest, the likeliest first. Refreshed rollouts
    may do without the reference policy's scores.
    """

    teacher: ModelScores[A]
    reference: ModelScores[A] | None = None
    topk_ids: A | None = None

    def map(self, change: Callable[[A], B]) -> "TeacherColumns[B]":
        """The same with ``change`` applied to every column."""
        return TeacherColumns(
            self.teacher.map(change),
            None if self.reference is None else self.reference.map(change),
            None if self.topk_ids is None else change(self.topk_ids),
        )


@dataclass(frozen=True)
class TokenSequence:
    """A prompt with its completion, ids int32. ``columns`` are there where it was scored."""

    prompt_ids: np.ndarray
    completion_ids: np.ndarray
    columns: TeacherColumns[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


def join_columns(
    parts: Sequence[TeacherColumns[np.ndarray]],
) -> TeacherColumns[np.ndarray]:
    """The columns of consecutive sequences as those of one batch. All have the same columns."""
    references = [p.reference for p in parts if p.reference is not None]
    assert len(references) in (0, len(parts)), "some sequences lack the reference's scores"
    return TeacherColumns(
        _join_scores([p.teacher for p in parts]),
        _join_scores(references) if references else None,
        _join([p.topk_ids for p in parts]),
    )


def _join_scores(parts: Sequence[ModelScores[np.ndarray]]) -> ModelScores[np.ndarray]:
    logp = np.concatenate([p.logp for p in parts])
    return ModelScores(
        logp, _join([p.topk_logp for p in parts]), _join([p.tail_logp for p in parts])
    )


def _join(columns: Sequence[np.ndarray | None]) -> np.ndarray | None:
    present = [column for column in columns if column is not None]
    assert len(present) in (0, len(columns)), "some sequences lack a column that others have"
    return np.concatenate(present) if present else None
