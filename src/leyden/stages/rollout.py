"""Stage 3: the reference policy, the student after SFT, answers the OPD prompts."""

from leyden.inference.sample import sample_counts, sample_store
from leyden.provenance.records import Intent, Record
from leyden.run.run import Run


def run_rollout(run: Run, intent: Intent) -> Record:
    """Make ``rollout/``, a sealed store of the student's own answers, exactly as sampled."""
    store, seconds = sample_store(
        run, intent, run.place("reference"), run.recipe.rollout, run.rollout_splits()
    )
    return Record(intent, store.fingerprint, sample_counts(store), seconds)
