"""Stage 1: the teacher writes completions of the SFT prompts."""

from leyden.inference.leader import Leader
from leyden.inference.sample import Samples, sample_counts
from leyden.provenance.records import Intent, Record
from leyden.run.graph import Graph
from leyden.run.run import SFT_TEACHER
from leyden.run.stage import TEACH


def run_teach(graph: Graph, intent: Intent) -> Record:
    """Make ``teach/``, a sealed store of the teacher's completions."""
    store, seconds = _samples(graph).make(graph, intent)
    return Record(intent, store.fingerprint, sample_counts(store), seconds)


def help_teach(graph: Graph, intent: Intent, leader: Leader) -> None:
    """Sample units of ``teach/`` that another process leads."""
    _samples(graph).help(graph, intent, leader)


def _samples(graph: Graph) -> Samples:
    sampling, splits = graph.run.recipe.teach, graph.splits(TEACH)
    return Samples("teacher", SFT_TEACHER, sampling, splits, graph.folder(TEACH))
