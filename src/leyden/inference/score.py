"""Score a store of completions into a store of its own: the score stage and refreshes share this.

The teacher's scores come as its engine makes them. When a unit's are whole, the reference policy
scores the same rows, at the teacher's ids where these are stored, and the unit is committed.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leyden.data.scored import check_ids, check_score_row
from leyden.engines.base import (
    Engine,
    EngineSpec,
    Failed,
    ScoreRequest,
    TokenScores,
    require_offer,
    top_k_problem,
)
from leyden.engines.open import open_reference
from leyden.errors import ConsistencyError
from leyden.inference.noted import note_engine
from leyden.inference.selftest import prove
from leyden.inference.units import Advance, all_results, fill_units, unsound
from leyden.run.artifacts import prompt_facts
from leyden.run.graph import Graph
from leyden.run.run import REFERENCE, TEACHER
from leyden.store.plan import PlanRows, Unit, cut_units
from leyden.store.reader import Row, Store
from leyden.store.schema import CHECKSUM, Schema, scores_schema
from leyden.store.unit import open_committed
from leyden.store.writer import StoreWriter

# Nats, as a mean over the tokens of a unit. The same rows in the same batches score the same to the
# bit here; an engine that batches otherwise moves real models in bfloat16 by 0.01 on average, and
# another model moves them by tenths.
SAME_MODEL = {"float32": 1e-3, "bfloat16": 0.05}


@dataclass(frozen=True)
class Scorer:
    """The teacher and, where its scores are wanted, the reference policy."""

    teacher: Engine
    spec: EngineSpec
    reference: Engine | None
    top_k: int
    vocab_size: int
    stop_ids: Sequence[int]

    @classmethod
    def open(cls, graph: Graph, *, top_k: int, with_reference: bool = True) -> "Scorer":
        """Open both for a run. Raises ConfigError where the teacher's engine lacks a score."""
        run, facts = graph.run, prompt_facts(graph)
        size = facts.vocab_size
        opened = run.spec("teacher", TEACHER, size)
        teacher = run.open_engine(opened)
        require_offer(teacher, "score", "the teacher")
        if top_k:
            require_offer(teacher, "top_k", f"score.top_k = {top_k}")
        spec = run.spec("reference", REFERENCE, size)
        reference = open_reference(spec) if with_reference else None
        return cls(teacher, opened, reference, top_k, size, facts.stop_ids)

    @property
    def schema(self) -> Schema:
        """The columns that the two engines fill."""
        return scores_schema(
            self.top_k,
            with_reference=self.reference is not None,
            with_entropy=self.teacher.offers.entropy,
            teacher_tail=self.teacher.offers.tail,
        )

    def load(self) -> None:
        self.teacher.load()
        if self.reference is not None:
            self.reference.load()

    def close(self) -> None:
        self.teacher.close()
        if self.reference is not None:
            self.reference.close()

    def by_teacher(
        self, rows: Iterable[tuple[int, Row, bool]]
    ) -> Iterator[tuple[int, TokenScores | Failed]]:
        """Score (group, completion row, whether the group ends with it) as they come."""
        requests = (_request(row, group, self.top_k, last) for group, row, last in rows)
        for index, scores in self.teacher.score(requests):
            if not isinstance(scores, Failed):
                self._check_offers(scores)
            yield index, scores

    def _check_offers(self, scores: TokenScores) -> None:
        """The store's columns follow what the engine offers, so that is what it must give."""
        offers, top_k = self.teacher.offers, scores.top_k
        if (top_k is None) == bool(self.top_k) or (scores.entropy is None) == offers.entropy:
            raise unsound("the teacher's scores lack what it offers, or hold what it does not")
        if top_k is not None and top_k.tail_is != offers.tail:
            raise unsound(f"it offers tails that are {offers.tail}, and gave {top_k.tail_is}")

    def by_reference(
        self, rows: Sequence[Row], by_teacher: Sequence[TokenScores]
    ) -> list[TokenScores | None]:
        """The reference's scores of ``rows``, at the ids of the teacher's top k."""
        if self.reference is None:
            return [None] * len(rows)
        requests = [
            ScoreRequest(
                row["prompt_ids"], row["completion_ids"], at_ids=t.top_k.ids if t.top_k else None
            )
            for row, t in zip(rows, by_teacher, strict=True)
        ]
        return all_results(self.reference.score(requests), len(rows))

    def columns(self, rows: Sequence[Row], by_teacher: Sequence[TokenScores]) -> list[Row]:
        """Rows of the score store, the reference's scores joined to the teacher's."""
        for row, scores in zip(rows, by_teacher, strict=True):
            if problem := top_k_problem(row["completion_ids"], scores):
                raise unsound(f"prompt {row['prompt_id']}, sample {row['sample']}: {problem}")
        by_reference = self.by_reference(rows, by_teacher)
        return [_row(*scored) for scored in zip(rows, by_teacher, by_reference, strict=True)]


def _request(row: Row, group: int, top_k: int, last: bool) -> ScoreRequest:
    return ScoreRequest(row["prompt_ids"], row["completion_ids"], top_k, group=group, last=last)


def units_like(completions: Store, rows_per_unit: int) -> list[Unit]:
    """The rows of ``completions`` in order. Scoring draws nothing, so the seeds are zero."""
    names, samples = (completions.column(name) for name in ("prompt_id", "sample"))
    seeds = np.zeros(len(completions), np.int64)
    return cut_units(PlanRows.from_columns(names, samples, seeds), rows_per_unit)


def fill_scores(
    writer: StoreWriter,
    completions: Store,
    scorer: Scorer,
    *,
    mine: Sequence[Unit] | None = None,
    advance: Advance = lambda rows: None,
) -> None:
    """Score every pending unit (of ``mine``). Where none is pending, no model is loaded.

    On resume the first unit is scored again: the models must give it the same scores. Raises
    AlignmentError on scores that no model gives.
    """
    starts, size = _starts(writer.units), scorer.vocab_size
    sizes = {unit.name: len(unit.rows) for unit in writer.units}

    def load() -> None:
        scorer.load()
        some = (completions[index] for index in range(len(completions)))
        texts = (np.concatenate([r["prompt_ids"], r["completion_ids"]]).tolist() for r in some)
        proof = prove(scorer.teacher, scorer.spec, texts, scorer.stop_ids, scorer.top_k)
        note_engine(writer.folder, scorer.teacher, proof)
        _probe(writer, completions, scorer)

    def answer(units: Iterator[tuple[int, Unit]]) -> Iterator[tuple[int, TokenScores | Failed]]:
        ends = {name: start + sizes[name] for name, start in starts.items()}
        return scorer.by_teacher(
            (group, _checked(completions, index, size), index + 1 == ends[unit.name])
            for group, unit in units
            for index in range(starts[unit.name], ends[unit.name])
        )

    def rows(unit: Unit, by_teacher: Sequence[TokenScores]) -> list[Row]:
        start = starts[unit.name]
        completed = [completions[start + i] for i in range(len(unit.rows))]
        scored = scorer.columns(completed, by_teacher)
        _check(scored, completed, writer.folder, start, size)
        return scored

    devices = scorer.spec.devices
    fill_units(writer, answer, rows, load=load, mine=mine, advance=advance, devices=devices)


def _starts(units: Sequence[Unit]) -> dict[str, int]:
    """Unit -> the number of its first row in the store."""
    starts, total = {}, 0
    for unit in units:
        starts[unit.name] = total
        total += len(unit.rows)
    return starts


def _checked(completions: Store, index: int, vocab_size: int) -> Row:
    row = completions[index]
    check_ids(row, vocab_size=vocab_size, where=f"{completions.folder}: row {index}")
    return row


def _check(
    scored: Sequence[Row], completed: Sequence[Row], folder: Path, start: int, vocab_size: int
) -> None:
    for index, (score, row) in enumerate(zip(scored, completed, strict=True), start):
        check_score_row(
            score,
            num_tokens=len(row["completion_ids"]),
            vocab_size=vocab_size,
            where=f"{folder}: row {index}",
        )


def _row(row: Row, teacher: TokenScores, reference: TokenScores | None) -> dict[str, Any]:
    """A row of the score store, of one completion."""
    columns = {
        "prompt_id": row["prompt_id"],
        "sample": row["sample"],
        "completion_crc32": row[CHECKSUM],
        **_of_model("teacher", teacher),
    }
    if teacher.top_k is not None:
        columns["topk_ids"] = teacher.top_k.ids.ravel()
    return columns if reference is None else columns | _of_model("reference", reference)


def _of_model(model: str, scores: TokenScores) -> dict[str, Any]:
    columns = {f"logp_{model}": scores.logp}
    if scores.entropy is not None:
        columns[f"{model}_entropy"] = scores.entropy
    if scores.top_k is not None:
        columns[f"{model}_topk_logp"] = scores.top_k.logp.ravel()
        columns[f"{model}_tail_logp"] = scores.top_k.tail
    return columns


def _probe(writer: StoreWriter, completions: Store, scorer: Scorer) -> None:
    """Score the first unit again, if it is committed, in the batches it was scored in.

    Raises ConsistencyError where the models now give other scores.
    """
    first = writer.units[0]
    if first.name in {unit.name for unit in writer.pending()}:
        return
    rows = [completions[index] for index in range(len(first.rows))]
    by_teacher = all_results(scorer.by_teacher((0, row, False) for row in rows), len(rows))
    again = scorer.columns(rows, by_teacher)
    limit = SAME_MODEL.get(scorer.teacher.numerics().get("dtype", ""), max(SAME_MODEL.values()))
    table = open_committed(writer.folder, first)
    for name in {"logp_teacher", "logp_reference"} & again[0].keys():
        stored = table[name].combine_chunks().flatten().to_numpy()
        gap = float(np.abs(stored - np.concatenate([row[name] for row in again])).mean())
        if not gap <= limit:
            raise ConsistencyError(
                f"{writer.folder}: the rows of its first unit now score {gap:.3g} nats per token "
                f"away from the stored {name}",
                hint="the model or the engine changed since scoring began; make the stage again "
                "with `leyden run RECIPE --redo score`",
            )
