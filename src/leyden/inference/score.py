"""A store of completions scored into a store of its own: what score and refreshes share."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leyden.data.scored import check_ids, check_score_row, sequence_of
from leyden.data.sequences import TokenSequence
from leyden.engines.transformers import TransformersEngine
from leyden.errors import ConsistencyError
from leyden.logprobs import TokenScores
from leyden.run.artifacts import vocab_size
from leyden.run.run import Run
from leyden.store.plan import PlanRow, Unit, cut_units
from leyden.store.reader import Row, Store
from leyden.store.schema import CHECKSUM
from leyden.store.unit import open_committed
from leyden.store.writer import StoreWriter

PROBE_TOLERANCE = 0.05  # nats; beyond rounding of any engine, far below another model's gap


@dataclass(frozen=True)
class Scorer:
    """The teacher and, where its scores are wanted, the reference policy."""

    teacher: TransformersEngine
    reference: TransformersEngine | None
    top_k: int
    vocab_size: int

    @classmethod
    def load(cls, run: Run, *, top_k: int, with_reference: bool = True) -> "Scorer":
        execution, size = run.recipe.execution, vocab_size(run)
        teacher = TransformersEngine.load(run.place("teacher"), execution, size)
        reference = None
        if with_reference:
            place = run.place("reference")
            reference = TransformersEngine.load(place, execution, size, as_trained=True)
        return cls(teacher, reference, top_k, size)

    def score(
        self,
        rows: Sequence[Row],
        *,
        rollouts: Path,
        scores: Path,
        first_row: int = 0,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> list[dict[str, Any]]:
        """Score rows of the store ``rollouts``; refuses scores that no model gives.

        ``first_row`` is the number of the first row, for error messages.
        """
        for number, row in enumerate(rows, first_row):
            check_ids(row, vocab_size=self.vocab_size, where=f"{rollouts}: row {number}")
        sequences = [sequence_of(row) for row in rows]
        by_teacher = self.teacher.score(sequences, top_k=self.top_k, progress=progress)
        by_reference = self._by_reference(sequences, by_teacher)
        scored = []
        for row, t, r in zip(rows, by_teacher, by_reference, strict=True):
            scored.append(_row(row, t, r))
            check_score_row(
                scored[-1],
                num_tokens=len(row["completion_ids"]),
                vocab_size=self.vocab_size,
                where=f"{scores}: row {first_row + len(scored) - 1}",
            )
        return scored

    def _by_reference(
        self, sequences: list[TokenSequence], by_teacher: list[TokenScores]
    ) -> Sequence[TokenScores | None]:
        """The reference's scores, at the teacher's top-k ids where those are stored."""
        if self.reference is None:
            return [None] * len(sequences)
        if self.top_k:
            sequences = [
                TokenSequence(s.prompt_ids, s.completion_ids, {"topk_ids": t.top_k.ids_NK.numpy()})
                for s, t in zip(sequences, by_teacher, strict=True)
                if t.top_k is not None
            ]
        return self.reference.score(sequences)


def units_like(rollouts: Store, rows_per_unit: int) -> list[Unit]:
    """The rollout's rows in order; scoring draws nothing, so the seeds are zero."""
    keys = zip(rollouts.values("prompt_id"), rollouts.values("sample"), strict=True)
    return cut_units([PlanRow(prompt_id, sample, 0) for prompt_id, sample in keys], rows_per_unit)


def fill_scores(
    writer: StoreWriter,
    rollouts: Store,
    load_scorer: Callable[[], Scorer],
    *,
    mine: Sequence[Unit] | None = None,
    advance: Callable[[int], None] = lambda rows: None,
) -> None:
    """Score every pending unit (of ``mine``); no model is loaded when none is.

    On resume the first row is scored again: the models must still say the same.
    """
    pending = {unit.name for unit in writer.pending()}
    wanted = {unit.name for unit in (writer.units if mine is None else mine)}
    if not pending & wanted:
        return
    scorer, start = load_scorer(), 0
    for unit in writer.units:
        where = {"rollouts": rollouts.folder, "scores": writer.folder}
        if unit.name in pending & wanted:
            rows = [rollouts[i] for i in range(start, start + len(unit.rows))]
            began = time.monotonic()
            scored = scorer.score(rows, **where, first_row=start, progress=advance)
            writer.commit(unit, scored, seconds=time.monotonic() - began)
        elif unit.name not in pending:
            advance(len(unit.rows))
            if start == 0:
                _probe(writer, scorer.score([rollouts[0]], **where)[0])
        start += len(unit.rows)


def _row(row: Row, teacher: TokenScores, reference: TokenScores | None) -> dict[str, Any]:
    found = {
        "prompt_id": row["prompt_id"],
        "sample": row["sample"],
        "completion_crc32": row[CHECKSUM],
        "logp_teacher": teacher.logp_N.numpy(),
        "teacher_entropy": teacher.entropy_N.numpy(),
    }
    if reference is not None:
        found |= {
            "logp_reference": reference.logp_N.numpy(),
            "reference_entropy": reference.entropy_N.numpy(),
        }
    if teacher.top_k is not None:
        found |= {
            "topk_ids": teacher.top_k.ids_NK.flatten().numpy(),
            "teacher_topk_logp": teacher.top_k.logp_NK.flatten().numpy(),
            "teacher_tail_logp": teacher.top_k.tail_N.numpy(),
        }
    if reference is not None and reference.top_k is not None:
        found |= {
            "reference_topk_logp": reference.top_k.logp_NK.flatten().numpy(),
            "reference_tail_logp": reference.top_k.tail_N.numpy(),
        }
    return found


def _probe(writer: StoreWriter, again: dict[str, Any]) -> None:
    """Compare the first stored row with what the models say of it now."""
    table = open_committed(writer.folder, writer.units[0])
    for name in ("logp_teacher", "logp_reference"):
        if name not in again:
            continue
        gap = float(np.abs(np.array(table[name][0].as_py()) - again[name]).max(initial=0.0))
        if not gap <= PROBE_TOLERANCE:
            raise ConsistencyError(
                f"{writer.folder}: row 0 now scores {gap:.3g} nats away from the stored {name}",
                hint="the model or the engine changed since scoring began; redo the score stage",
            )
