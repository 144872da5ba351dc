"""Find out before the first token is sampled what would stop a run later: files and weights."""

from collections.abc import Collection, Iterator
from pathlib import Path

from leyden.data.sources import read_prompts
from leyden.evals.problems import read_problems
from leyden.models.folder import check_folder
from leyden.models.weights import check_weights
from leyden.run.graph import Graph
from leyden.run.stage import PROBLEMS, PROMPTS, Job


def read_inputs(graph: Graph, jobs: Collection[Job]) -> Iterator[str]:
    """Read the prompt files and problems that ``jobs`` will read; a sentence for each.

    Problems of the Hub are read when their stage begins. Raises what the stage would.
    """
    recipe = graph.run.recipe
    if PROMPTS in jobs:
        for name, source in (("sft", recipe.prompts.sft), ("opd", recipe.prompts.opd)):
            prompts = read_prompts(source)
            longest = f"{max(len(prompt.text) for prompt in prompts):,} characters"
            yield f"prompts.{name}: {len(prompts):,} rows of {source.file}, to {longest}"
    if PROBLEMS in jobs:
        for benchmark in recipe.evaluate.benchmarks:
            if benchmark.problems.file is not None:
                yield f"{benchmark.name}: {len(read_problems(benchmark)):,} problems"


def look_at_weights(graph: Graph, jobs: Collection[Job]) -> Iterator[str]:
    """Check the weights of the local models that ``jobs`` will use; a sentence for each."""
    for role in sorted({role for job in jobs for role in graph.outside_models(job)}):
        place = Path(graph.run.address(role))
        if place.is_dir():
            check_folder(place)
            yield f"{role}: {check_weights(place):,} bytes of weights in {place}"
