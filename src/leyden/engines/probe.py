"""What the student answers held-out prompts with, while it trains."""

from transformers import PreTrainedModel

from leyden.artifacts import open_prompts, stop_ids, vocab_size
from leyden.engines.transformers import GenerateRequest, TransformersEngine
from leyden.identity import derive_seed
from leyden.run import Run


def measure_answers(run: Run, student: PreTrainedModel, count: int) -> dict[str, float]:
    """``length_mean``, in tokens with the stop token, and ``stop_rate`` of answers to the first
    ``count`` held-out prompts, sampled as rollouts are, with the same seeds every time."""
    prompts = [p for p in open_prompts(run).values() if p.split == "heldout"][:count]
    if not prompts:
        return {}
    seeds = [derive_seed(run.recipe.seed, "probe", prompt.id) for prompt in prompts]
    requests = [GenerateRequest(p.ids, seed) for p, seed in zip(prompts, seeds, strict=True)]
    engine = TransformersEngine(student, run.recipe.execution, vocab_size(run))
    answers = engine.generate(requests, run.recipe.rollout, stop_ids(run))
    stopped = sum(answer.finish_reason == "stop" for answer in answers)
    return {
        "length_mean": sum(len(answer.ids) for answer in answers) / len(answers),
        "stop_rate": stopped / len(answers),
    }
