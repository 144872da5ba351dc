"""What a job will make, before it makes it: rows, and at most how many tokens and bytes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from leyden.data.prompt_set import BENCHMARK, HELDOUT, OPD_SPLIT, SFT_SPLIT, RenderedPrompt
from leyden.models.weights import count_parameters, has_weights
from leyden.recipe.sampling import Sampling
from leyden.recipe.training import Optimisation
from leyden.run.graph import Graph
from leyden.run.layout import DIVERGENCE
from leyden.run.run import BASE, REFERENCE, TEACHER, Run
from leyden.run.stage import ROLLOUT, SFT, Artifact, Job
from leyden.store.schema import COMPLETIONS, Schema, most_bytes, scores_schema
from leyden.train.checkpoint import KEEP

MODEL_BYTES = 4  # a parameter of a finished model is a float32
GRADE_BYTES, TEXT_BYTES = 300, 8  # a line of grades, and a token's text in it
POINT_BYTES = 16  # in a resume point: the same, AdamW's two moments, and the best model so far

Sizes = dict[str, tuple[int, int]]
"""Split -> its rows, and the tokens of all its prompts."""


@dataclass(frozen=True)
class Forecast:
    """Of one job: ``prompt_tokens`` are read, at most ``tokens`` are sampled, scored or learned,
    and at most ``stored`` bytes are on the disk at a time, 0 where that is not known."""

    rows: int
    prompt_tokens: int
    tokens: int
    stored: int

    def __str__(self) -> str:
        most = f"at most {self.prompt_tokens + self.tokens:,} tokens with prompts"
        parts = f"{self.rows:,} rows, {most}"
        return f"{parts}, {readable(self.stored)}" if self.stored else parts


def readable(count: int) -> str:
    """Bytes in the unit that shows three digits."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def sizes_of(prompts: Iterable[RenderedPrompt]) -> Sizes:
    """Rows and tokens of each split of ``prompts``."""
    sizes: Sizes = {}
    for prompt in prompts:
        rows, tokens = sizes.get(prompt.split, (0, 0))
        sizes[prompt.split] = (rows + 1, tokens + len(prompt.ids))
    return sizes


def forecast(graph: Graph, job: Job, sizes: Sizes) -> Forecast | None:
    """What ``job`` will make of the prompts in ``sizes``; None for prompts themselves."""
    recipe, kind = graph.run.recipe, graph.stage(job).artifact
    if kind == Artifact.COMPLETIONS:
        sampling: Sampling = getattr(recipe, job.stage)
        return _sampled([(split, sampling) for split in graph.splits(job)], sizes)
    if kind == Artifact.SCORES:
        splits = [(split, recipe.rollout) for split in graph.splits(ROLLOUT)]
        return _sampled(splits, sizes, scores_schema(recipe.score.top_k))
    if kind == Artifact.MODEL:
        return _trained(graph, job, sizes)
    if kind == Artifact.RESULTS:
        benchmarks = recipe.evaluate.benchmarks
        measured = min(recipe.evaluate.kl_prompts, sizes.get(HELDOUT, (0, 0))[0])
        if job.name != TEACHER and measured:
            prompts = sizes[HELDOUT][1] * measured // sizes[HELDOUT][0]
            sizes = {**sizes, DIVERGENCE: (measured, prompts)}
        cap = Sampling(max_new_tokens=recipe.evaluate.kl_max_new_tokens)
        splits = [*((BENCHMARK + b.name, b) for b in benchmarks), (DIVERGENCE, cap)]
        made = _sampled(splits, sizes)
        grades = made.rows * GRADE_BYTES + made.tokens * TEXT_BYTES
        return replace(made, stored=made.stored + grades)
    return None


def _sampled(
    splits: Sequence[tuple[str, Sampling]],
    sizes: Sizes,
    schema: Schema = COMPLETIONS,
) -> Forecast:
    rows = prompt_tokens = tokens = 0
    for split, sampling in splits:
        prompts, length = sizes.get(split, (0, 0))
        samples = sampling.samples_per_prompt
        rows, prompt_tokens = rows + prompts * samples, prompt_tokens + length * samples
        tokens += prompts * samples * sampling.max_new_tokens
    stored = most_bytes(schema, rows=rows, prompt_tokens=prompt_tokens, tokens=tokens)
    return Forecast(rows, prompt_tokens, tokens, stored)


def _trained(graph: Graph, job: Job, sizes: Sizes) -> Forecast:
    """All rows of all steps; the model, and the resume points beside it while it trains."""
    run = graph.run
    arm = run.arms().get(job.name) if job != SFT else None
    settings: Optimisation = run.recipe.sft if arm is None else arm
    learns = run.recipe.teach if arm is None or arm.objective == "sft" else run.recipe.rollout
    prompts, length = sizes.get(SFT_SPLIT if arm is None else OPD_SPLIT, (0, 0))
    rows = settings.steps * settings.batch_size
    stored = _numbers(run) * (MODEL_BYTES + KEEP * POINT_BYTES)
    read = rows * length // max(1, prompts)
    return Forecast(rows, read, rows * learns.max_new_tokens, stored)


def _numbers(run: Run) -> int:
    """The student's parameters; 0 where its weights are not here."""
    model = BASE if run.recipe.models.reference is None else REFERENCE
    place = run.place(model)
    return count_parameters(place) if has_weights(place) else 0
