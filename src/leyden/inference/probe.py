"""The student's completions of held-out prompts, measured while it trains."""

from collections.abc import Sequence

from leyden.data.prompt_set import RenderedPrompt
from leyden.engines.base import Engine, Failed, GenerateRequest
from leyden.provenance.identity import derive_seed
from leyden.recipe.sampling import Sampling


def probe_requests(
    prompts: Sequence[RenderedPrompt], count: int, *, seed: int
) -> list[GenerateRequest]:
    """The first ``count`` prompts, with seeds that are the same every time."""
    return [GenerateRequest(p.ids, derive_seed(seed, "probe", p.id)) for p in prompts[:count]]


def measure_completions(
    engine: Engine, requests: Sequence[GenerateRequest], sampling: Sampling, stop_ids: Sequence[int]
) -> dict[str, float]:
    """``length_mean``, in tokens with the stop token, and ``stop_rate`` of the completions."""
    if not requests:
        return {}
    results = [made for _, made in engine.generate(requests, sampling, stop_ids)]
    completions = [made for made in results if not isinstance(made, Failed)]
    if not completions:
        return {}
    stopped = sum(made.finish_reason == "stop" for made in completions)
    return {
        "length_mean": sum(len(made.ids) for made in completions) / len(completions),
        "stop_rate": stopped / len(completions),
    }
