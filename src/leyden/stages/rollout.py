"""Stage 3: the reference policy, the student after SFT, writes completions of the OPD prompts."""

from leyden.inference.leader import Leader
from leyden.inference.sample import Samples, sample_counts
from leyden.provenance.records import Intent, Record
from leyden.run.graph import Graph
from leyden.run.run import REFERENCE
from leyden.run.stage import ROLLOUT


def run_rollout(graph: Graph, intent: Intent) -> Record:
    """Make ``rollout/``, a sealed store of the student's own completions, exactly as sampled."""
    store, seconds = _samples(graph).make(graph, intent)
    return Record(intent, store.fingerprint, sample_counts(store), seconds)


def help_rollout(graph: Graph, intent: Intent, leader: Leader) -> None:
    """Sample units of ``rollout/`` that another process leads."""
    _samples(graph).help(graph, intent, leader)


def _samples(graph: Graph) -> Samples:
    sampling, splits = graph.run.recipe.rollout, graph.splits(ROLLOUT)
    return Samples("student", REFERENCE, sampling, splits, graph.folder(ROLLOUT))
