"""Stage 4: teacher and reference policy score every token of every rollout, once."""

from contextlib import closing

import numpy as np
import torch

from leyden.data.scored import check_columns
from leyden.inference.leader import Leader
from leyden.inference.score import Scorer, fill_scores, units_like
from leyden.losses import sampled_loss
from leyden.provenance.records import Intent, Record
from leyden.run.artifacts import open_artifact, open_prompts, prompt_facts
from leyden.run.fits import check_limits, check_vocabulary
from leyden.run.graph import Graph
from leyden.run.run import TEACHER
from leyden.run.stage import ROLLOUT, SCORE
from leyden.run.teachers import teacher_consistency
from leyden.store.reader import Store, open_store
from leyden.store.writer import join_writer, open_writer

TAU = 10.0  # the paper's clip, nats


def run_score(graph: Graph, intent: Intent) -> Record:
    """Make ``score/``, row for row with ``rollout/``."""
    run, size = graph.run, prompt_facts(graph).vocab_size
    consistency = teacher_consistency(graph)
    rollouts = open_artifact(graph, ROLLOUT)
    check_vocabulary(graph, TEACHER)
    check_limits(run, open_prompts(graph).values(), vocab_size=size)
    scorer, units = _scorer(graph), units_like(rollouts, run.recipe.execution.rows_per_unit)
    writer = open_writer(graph.folder(SCORE), scorer.schema, units, origin=intent.digest)
    with closing(scorer), run.progress(intent.stage, len(rollouts), "rows") as advance:
        fill_scores(writer, rollouts, scorer, advance=advance)
    fingerprint = writer.seal()
    store = open_store(writer.folder)
    check_columns(store, size)
    counts = {"rows": len(store), "tokens": store.num_tokens, **_summary(store)}
    seconds = writer.device_seconds()
    return Record(intent, fingerprint, counts, seconds, teacher_consistency=consistency)


def help_score(graph: Graph, intent: Intent, leader: Leader) -> None:
    """Score units of ``score/`` that another process leads."""
    run, rollouts, scorer = graph.run, open_artifact(graph, ROLLOUT), _scorer(graph)
    check_vocabulary(graph, TEACHER)
    units = units_like(rollouts, run.recipe.execution.rows_per_unit)
    place, origin = graph.folder(SCORE), intent.digest
    writer = leader.wait_for(lambda: join_writer(place, scorer.schema, units, origin=origin))
    if writer is not None:
        with closing(scorer), run.progress(intent.stage, len(rollouts), "rows") as advance:
            fill_scores(writer, rollouts, scorer, advance=advance)


def _scorer(graph: Graph) -> Scorer:
    return Scorer.open(graph, top_k=graph.run.recipe.score.top_k)


def _summary(store: Store) -> dict[str, float]:
    """Numbers over all tokens, at the reference policy, that warnings are made from.

    The mean advantage; the share of tokens whose advantage is below -10 nats, and their share of
    the sampled loss; the surprisal of the rollouts over the reference's entropy, 1 where they were
    sampled at temperature 1; the teacher's mass inside the top k.
    """
    gaps = [row["logp_teacher"].astype(np.float64) - row["logp_reference"] for row in store]
    advantage_N = torch.from_numpy(np.concatenate(gaps))
    surprisal = -sum(row["logp_reference"].sum(dtype=np.float64) for row in store)
    entropy = sum(row["reference_entropy"].sum(dtype=np.float64) for row in store)
    loss_N = sampled_loss(advantage_N * 0, advantage_N, clip=TAU)
    far_N = advantage_N < -TAU
    summary = {
        "mean_advantage": float(advantage_N.mean()),
        "tokens_below_minus_10": float(far_N.double().mean()),
        "their_share_of_sampled_loss": float(loss_N[far_N].sum() / loss_N.sum().clamp_min(1e-30)),
        "surprisal_over_entropy": float(surprisal / max(entropy, 1e-30)),
    }
    if "topk_ids" in store.schema.names:
        tails = np.concatenate([row["teacher_tail_logp"] for row in store]).astype(np.float64)
        summary["teacher_covered_mass"] = float(1 - np.exp(tails).mean())
    return summary
