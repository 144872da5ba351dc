"""Stage 3: the reference policy, the student after SFT, writes completions of the OPD prompts."""

from leyden.inference.sample import sample_counts, sample_store
from leyden.provenance.records import Intent, Record
from leyden.run.graph import Graph
from leyden.run.run import REFERENCE
from leyden.run.stage import ROLLOUT


def run_rollout(graph: Graph, intent: Intent) -> Record:
    """Make ``rollout/``, a sealed store of the student's own completions, exactly as sampled."""
    store, seconds = sample_store(
        graph,
        intent,
        "student",
        REFERENCE,
        graph.run.recipe.rollout,
        graph.splits(ROLLOUT),
        folder=graph.folder(ROLLOUT),
    )
    return Record(intent, store.fingerprint, sample_counts(store), seconds)
