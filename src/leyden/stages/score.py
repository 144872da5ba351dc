"""Stage 4: teacher and reference score every token of every rollout, once."""

import numpy as np
import torch

from leyden.data.scored import check_some_doubt
from leyden.inference.score import Scorer, fill_scores, units_like
from leyden.losses import sampled_loss
from leyden.provenance.records import Intent, Record
from leyden.run.artifacts import open_artifact, open_prompts, vocab_size
from leyden.run.fits import check_limits, check_vocabulary
from leyden.run.run import ROLLOUT, Run
from leyden.store.reader import Store, open_store
from leyden.store.schema import scores_schema
from leyden.store.writer import open_writer

TAU = 10.0  # the paper's clip, nats


def run_score(run: Run, intent: Intent) -> Record:
    """Make ``score/``, row for row with ``rollout/``; the one-teacher rule was checked before."""
    rollouts = open_artifact(run, ROLLOUT)
    check_vocabulary(run, "teacher")
    check_limits(run, open_prompts(run).values(), vocab_size=vocab_size(run))
    units = units_like(rollouts, run.recipe.execution.rows_per_unit)
    writer = open_writer(
        run.folder(intent.stage),
        scores_schema(run.recipe.score.top_k),
        units,
        origin=intent.digest,
    )
    with run.progress(intent.stage, len(rollouts), "rows") as advance:
        top_k = run.recipe.score.top_k
        fill_scores(writer, rollouts, lambda: Scorer.load(run, top_k=top_k), advance=advance)
    store_fingerprint = writer.seal()
    store = open_store(writer.folder)
    check_some_doubt(store, vocab_size(run))
    counts = {"rows": len(store), "tokens": store.num_tokens, **_summary(store)}
    return Record(intent, store_fingerprint, counts, writer.device_seconds())


def _summary(store: Store) -> dict[str, float]:
    """Over all tokens, at the reference policy: the mean advantage, the share of tokens whose
    advantage is below -10 nats and their share of the sampled loss; how surprising the rollouts are
    to the reference, over its entropy (1 when sampled at temperature 1); the teacher's mass inside
    the top k."""
    gaps = [row["logp_teacher"].astype(np.float64) - row["logp_reference"] for row in store]
    advantage_N = torch.from_numpy(np.concatenate(gaps))
    surprisal = -sum(row["logp_reference"].sum(dtype=np.float64) for row in store)
    entropy = sum(row["reference_entropy"].sum(dtype=np.float64) for row in store)
    loss_N = sampled_loss(advantage_N * 0, advantage_N, clip=TAU)
    far_N = advantage_N < -TAU
    found = {
        "mean_advantage": float(advantage_N.mean()),
        "tokens_below_minus_10": float(far_N.double().mean()),
        "their_share_of_sampled_loss": float(loss_N[far_N].sum() / loss_N.sum().clamp_min(1e-30)),
        "surprisal_over_entropy": float(surprisal / max(entropy, 1e-30)),
    }
    if "topk_ids" in store.schema.names:
        tails = np.concatenate([row["teacher_tail_logp"] for row in store]).astype(np.float64)
        found["teacher_covered_mass"] = float(1 - np.exp(tails).mean())
    return found
