"""Open a finished job's artifact, only if it still is what its record says."""

from pathlib import Path

from leyden.data.prompt_set import PromptFacts, RenderedPrompt, read_prompt_set
from leyden.run.graph import Graph
from leyden.run.run import REFERENCE, SFT_TEACHER
from leyden.run.stage import PROMPTS, Job
from leyden.store.reader import Store, open_store


def open_artifact(graph: Graph, job: Job, *, reader: object = "this command") -> Store:
    """The sealed store of ``job``. Raises StoreError unless it has the recorded fingerprint."""
    record = graph.require(job, reader=reader)
    origin = record.intent.digest
    return open_store(graph.folder(job), expected=record.fingerprint, origin=origin)


def open_prompts(graph: Graph, job: Job = PROMPTS) -> dict[str, RenderedPrompt]:
    """The rendered prompts (or problems) by id. Raises StoreError unless they are as recorded."""
    return read_prompt_set(graph.folder(job), expected=graph.require(job).fingerprint)


def prompt_facts(graph: Graph) -> PromptFacts:
    """Stop ids, vocabulary and template, as fixed when the prompts were rendered."""
    return PromptFacts.read(graph.require(PROMPTS).facts)


def tokenizer_folder(graph: Graph) -> Path:
    """The folder of the run's tokenizer: the reference policy's, else the SFT teacher's."""
    run = graph.run
    return run.place(REFERENCE if run.has(REFERENCE) else SFT_TEACHER)
