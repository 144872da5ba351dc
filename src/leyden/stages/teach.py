"""Stage 1: the teacher writes completions of the SFT prompts."""

from leyden.inference.sample import sample_counts, sample_store
from leyden.provenance.records import Intent, Record
from leyden.run.graph import Graph
from leyden.run.run import SFT_TEACHER
from leyden.run.stage import TEACH


def run_teach(graph: Graph, intent: Intent) -> Record:
    """Make ``teach/``, a sealed store of the teacher's completions."""
    store, seconds = sample_store(
        graph,
        intent,
        "teacher",
        SFT_TEACHER,
        graph.run.recipe.teach,
        graph.splits(TEACH),
        folder=graph.folder(TEACH),
    )
    return Record(intent, store.fingerprint, sample_counts(store), seconds)
