"""Read and render everything that a run would, and say what each job will make of it."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

from leyden.data.prompt_set import BENCHMARK, RenderedPrompt
from leyden.evals.grading import check_graders, try_graders
from leyden.evals.remarks import grader_remarks, prompt_remarks
from leyden.pipeline.forecast import Forecast, Sizes, forecast, sizes_of
from leyden.run.artifacts import open_prompts
from leyden.run.graph import Graph
from leyden.run.stage import PROBLEMS, PROMPTS, Job
from leyden.stages.prompts import render_problems, render_prompts


class Foresight(NamedTuple):
    """Sentences about the prompts and about what is often not meant, and forecasts by job."""

    sentences: list[str]
    forecasts: dict[Job, Forecast]


def foresee(graph: Graph, jobs: Collection[Job]) -> Foresight:
    """Read and render everything that ``jobs`` would. Raises what the stages would."""
    sizes: Sizes = {}
    sentences = list(read_inputs(graph, jobs, sizes))
    made = {job: forecast(graph, job, sizes) for job in jobs}
    return Foresight(sentences, {job: one for job, one in made.items() if one is not None})


def read_inputs(graph: Graph, jobs: Collection[Job], sizes: Sizes) -> Iterator[str]:
    """Read and render the prompts and problems that ``jobs`` use; a sentence for each source.

    ``sizes`` gets the rows and tokens of each split. Problems of the Hub are read when their stage
    begins. Raises what the stage would.
    """
    recipe = graph.run.recipe
    if PROMPTS in jobs:
        rendering = render_prompts(graph.run)
        sizes |= sizes_of(rendering.prompts)
        yield f"prompts: {_described(rendering.prompts)}"
        yield from prompt_remarks(recipe, rendering.prompts, rendering.renderer.default_system)
    elif jobs:
        sizes |= sizes_of(open_prompts(graph).values())
    if PROBLEMS in jobs:
        check_graders(recipe.evaluate)
        here = [b.name for b in recipe.evaluate.benchmarks if b.problems.file is not None]
        problems = list(render_problems(graph.run, here))
        sizes |= sizes_of(problems)
        try_graders(recipe.evaluate, problems)
        if problems:
            yield f"problems: {_described(problems)}"
            yield from grader_remarks(recipe, problems)
        for benchmark in recipe.evaluate.benchmarks:
            if benchmark.name not in here and benchmark.problems.hub is not None:
                place = benchmark.problems.hub.repo
                yield f"{benchmark.name}: fetched from the Hub ({place}) when the run begins"
    elif graph.finished(PROBLEMS):
        sizes |= sizes_of(open_prompts(graph, PROBLEMS).values())


def _described(prompts: Collection[RenderedPrompt]) -> str:
    """Rows of each split, and the longest."""
    rows = Counter(prompt.split.removeprefix(BENCHMARK) for prompt in prompts)
    listed = ", ".join(f"{count:,} {name}" for name, count in rows.items())
    return f"{listed}, of up to {max(len(prompt.ids) for prompt in prompts):,} tokens"
