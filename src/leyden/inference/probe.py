"""What the student answers held-out prompts with, while it trains."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from leyden.engines.transformers import GenerateRequest, TransformersEngine
from leyden.provenance.identity import derive_seed
from leyden.run.artifacts import open_prompts, stop_ids, vocab_size
from leyden.run.run import Run


def heldout_requests(run: Run, count: int) -> list[GenerateRequest]:
    """The first ``count`` held-out prompts, with seeds that are the same every time."""
    prompts = [p for p in open_prompts(run).values() if p.split == "heldout"][:count]
    return [GenerateRequest(p.ids, derive_seed(run.recipe.seed, "probe", p.id)) for p in prompts]


def measure_answers(
    run: Run, student: PreTrainedModel, requests: Sequence[GenerateRequest]
) -> dict[str, float]:
    """``length_mean``, in tokens with the stop token, and ``stop_rate`` of the student's answers,
    sampled as rollouts are."""
    if not requests:
        return {}
    engine = TransformersEngine(student, run.recipe.execution, vocab_size(run))
    answers = engine.generate(requests, run.recipe.rollout, stop_ids(run))
    stopped = sum(answer.finish_reason == "stop" for answer in answers)
    return {
        "length_mean": sum(len(answer.ids) for answer in answers) / len(answers),
        "stop_rate": stopped / len(answers),
    }
