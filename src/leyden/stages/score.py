"""Stage 4: teacher and reference score every token of every rollout, once."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from leyden.artifacts import open_artifact, open_prompts, vocab_size
from leyden.data.scores import check_ids, check_score_row, check_some_doubt, sequence_of
from leyden.data.sequences import TokenSequence
from leyden.engines.transformers import TransformersEngine
from leyden.errors import ConsistencyError
from leyden.limits import check_limits
from leyden.lineage import Intent, Record
from leyden.logprobs import TokenScores
from leyden.losses import sampled_loss
from leyden.run import ROLLOUT, SCORE, Advance, Run
from leyden.store.plan import PlanRow, Unit, cut_units
from leyden.store.reader import Row, Store, open_store
from leyden.store.schema import CHECKSUM, scores_schema
from leyden.store.unit import open_committed
from leyden.store.writer import StoreWriter, open_writer
from leyden.vocabulary import check_vocabulary

TAU = 10.0  # the paper's clip, nats
PROBE_TOLERANCE = 0.05  # nats; beyond rounding of any engine, far below another model's gap


def run_score(run: Run, intent: Intent) -> Record:
    """Make ``score/``, row for row with ``rollout/``; the one-teacher rule was checked before."""
    rollouts = open_artifact(run, ROLLOUT)
    check_vocabulary(run, "teacher")
    check_limits(run, open_prompts(run).values(), vocab_size=vocab_size(run))
    units = _units_like(rollouts, run.recipe.execution.rows_per_unit)
    writer = open_writer(
        run.folder(intent.stage),
        scores_schema(run.recipe.score.top_k),
        units,
        origin=intent.digest,
    )
    with run.progress(intent.stage, len(rollouts), "rows") as advance:
        _score_pending(run, writer, rollouts, advance)
    store_fingerprint = writer.seal()
    store = open_store(writer.folder)
    check_some_doubt(store)
    counts = {"rows": len(store), "tokens": store.num_tokens, **_summary(store)}
    return Record(intent, store_fingerprint, counts, writer.device_seconds())


def _units_like(rollouts: Store, rows_per_unit: int) -> list[Unit]:
    """The rollout's rows in order; scoring draws nothing, so the seeds are zero."""
    keys = zip(rollouts.values("prompt_id"), rollouts.values("sample"), strict=True)
    rows = [PlanRow(prompt_id, sample, 0) for prompt_id, sample in keys]
    return cut_units(rows, rows_per_unit)


def _score_pending(run: Run, writer: StoreWriter, rollouts: Store, advance) -> None:
    pending = {unit.name for unit in writer.pending()}
    if not pending:
        return
    execution, size = run.recipe.execution, vocab_size(run)
    teacher = TransformersEngine.load(run.place("teacher"), execution, size)
    place = run.place("reference")
    reference = TransformersEngine.load(place, execution, size, as_trained=True)
    start = 0
    for unit in writer.units:
        rows = [rollouts[i] for i in range(start, start + len(unit.rows))]
        if unit.name in pending:
            began = time.monotonic()
            scored = score_rows(run, rows, teacher, reference, first_row=start, progress=advance)
            writer.commit(unit, scored, seconds=time.monotonic() - began)
        else:
            advance(len(unit.rows))
            if start == 0:
                _probe(run, writer, rows[0], teacher, reference)
        start += len(unit.rows)


def score_rows(
    run: Run,
    rows: Sequence[Row],
    teacher: TransformersEngine,
    reference: TransformersEngine,
    *,
    first_row: int = 0,
    progress: Advance = lambda rows: None,
) -> list[dict[str, Any]]:
    """Score rows of a completion store; refuses scores that no model gives."""
    for offset, row in enumerate(rows):
        where = f"{run.folder(ROLLOUT)}: row {first_row + offset}"
        check_ids(row, vocab_size=vocab_size(run), where=where)
    sequences = [sequence_of(row) for row in rows]
    by_teacher = teacher.score(sequences, top_k=run.recipe.score.top_k, progress=progress)
    if run.recipe.score.top_k:
        sequences = [
            TokenSequence(s.prompt_ids, s.completion_ids, {"topk_ids": t.top_k.ids_NK.numpy()})
            for s, t in zip(sequences, by_teacher, strict=True)
            if t.top_k is not None
        ]
    by_reference = reference.score(sequences)
    scored = []
    for offset, (row, t, r) in enumerate(zip(rows, by_teacher, by_reference, strict=True)):
        scored.append(_row(row, t, r))
        check_score_row(
            scored[-1],
            num_tokens=len(row["completion_ids"]),
            vocab_size=vocab_size(run),
            where=f"{run.folder(SCORE)}: row {first_row + offset}",
        )
    return scored


def _row(row: Row, teacher: TokenScores, reference: TokenScores) -> dict[str, Any]:
    found = {
        "prompt_id": row["prompt_id"],
        "sample": row["sample"],
        "completion_crc32": row[CHECKSUM],
        "logp_teacher": teacher.logp_N.numpy(),
        "logp_reference": reference.logp_N.numpy(),
        "teacher_entropy": teacher.entropy_N.numpy(),
        "reference_entropy": reference.entropy_N.numpy(),
    }
    if teacher.top_k is not None and reference.top_k is not None:
        found |= {
            "topk_ids": teacher.top_k.ids_NK.flatten().numpy(),
            "teacher_topk_logp": teacher.top_k.logp_NK.flatten().numpy(),
            "reference_topk_logp": reference.top_k.logp_NK.flatten().numpy(),
            "teacher_tail_logp": teacher.top_k.tail_N.numpy(),
            "reference_tail_logp": reference.top_k.tail_N.numpy(),
        }
    return found


def _probe(run, writer: StoreWriter, row: Row, teacher, reference) -> None:
    """On resume, score the first stored row again: the models must still say the same."""
    table = open_committed(writer.folder, writer.units[0])
    again = score_rows(run, [row], teacher, reference)[0]
    for name in ("logp_teacher", "logp_reference"):
        gap = float(np.abs(np.array(table[name][0].as_py()) - again[name]).max(initial=0.0))
        if not gap <= PROBE_TOLERANCE:
            raise ConsistencyError(
                f"{writer.folder}: row 0 now scores {gap:.3g} nats away from the stored {name}",
                hint="the model or the engine changed since scoring began; redo the score stage",
            )


def _summary(store: Store) -> dict[str, float]:
    """Over all tokens, at the reference policy: the mean advantage, the share of tokens whose
    advantage is below -10 nats and their share of the sampled loss, and the teacher's mass inside
    the top k."""
    gaps = [row["logp_teacher"].astype(np.float64) - row["logp_reference"] for row in store]
    advantage_N = torch.from_numpy(np.concatenate(gaps))
    loss_N = sampled_loss(advantage_N * 0, advantage_N, clip=TAU)
    far_N = advantage_N < -TAU
    found = {
        "mean_advantage": float(advantage_N.mean()),
        "tokens_below_minus_10": float(far_N.double().mean()),
        "their_share_of_sampled_loss": float(loss_N[far_N].sum() / loss_N.sum().clamp_min(1e-30)),
    }
    if "topk_ids" in store.schema.names:
        tails = np.concatenate([row["teacher_tail_logp"] for row in store]).astype(np.float64)
        found["teacher_covered_mass"] = float(1 - np.exp(tails).mean())
    return found
