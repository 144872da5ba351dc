"""Stage 3: the reference policy, the student after SFT, answers the OPD prompts."""

from leyden.engines.sample_store import sample_store
from leyden.lineage import Intent, Record
from leyden.run import Run


def run_rollout(run: Run, intent: Intent) -> Record:
    """Make ``rollout/``, a sealed store of the student's own answers, exactly as sampled."""
    store, seconds = sample_store(
        run, intent, run.place("reference"), run.recipe.rollout, ["opd", "heldout"]
    )
    truncated = store.values("finish_reason").count("length")
    counts = {"rows": len(store), "tokens": store.num_tokens, "truncated": truncated}
    return Record(intent, store.fingerprint, counts, seconds)
