"""A second engine for tests: the next token follows a table of the last one, in float64.

Its log-probs are exact, so every stored number can be compared with the table. Results come in a
scrambled order over all requests, as from an engine with continuous batching.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from leyden.engines.base import (
    Completion,
    EngineSpec,
    GenerateRequest,
    Offers,
    ScoreRequest,
    TokenScores,
    TopK,
    complement_tail,
)
from leyden.recipe.sampling import Sampling

Ids = Sequence[int] | np.ndarray
SIZE = 48
STOP = 1


def table(seed: int) -> np.ndarray:
    """log p(next | last), [SIZE, SIZE]: peaked, with a stop token that comes after about ten."""
    logits = 2.0 * np.random.default_rng(seed).normal(size=(SIZE, SIZE))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    p[:, STOP] = 0.1 * (1 - p[:, STOP])
    return np.log(p / p.sum(-1, keepdims=True))


class TableEngine:
    """Plays every role. Tables differ between teacher and student."""

    offers = Offers(entropy=False, tail="complement")

    def __init__(self, spec: EngineSpec) -> None:
        self.spec, self.loads, self.logp = spec, 0, table({"teacher": 0}.get(spec.role, 1))

    def numerics(self) -> dict[str, Any]:
        return {"engine": "table", "dtype": "float64"}

    def load(self) -> None:
        self.loads += 1

    def close(self) -> None:
        pass

    def generate(
        self, requests: Iterable[GenerateRequest], sampling: Sampling, stop_ids: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        assert tuple(stop_ids) == (STOP,) and sampling.temperature == 1.0
        return scrambled([self._complete(r, sampling.max_new_tokens) for r in requests])

    def _complete(self, request: GenerateRequest, cap: int) -> Completion:
        rng, ids, last = np.random.default_rng(request.seed), [], request.prompt_ids[-1]
        while len(ids) < cap and (not ids or ids[-1] != STOP):
            ids.append(int(rng.choice(SIZE, p=np.exp(self.logp[last]))))
            last = ids[-1]
        reason = "stop" if ids[-1] == STOP else "length"
        return Completion(np.array(ids, np.int32), self.of(request.prompt_ids, ids), reason)

    def of(self, prompt_ids: Ids, completion_ids: Ids) -> np.ndarray:
        """The table's log-probs of a completion."""
        before = [prompt_ids[-1], *completion_ids[:-1]]
        return self.logp[before, completion_ids].astype(np.float32)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[tuple[int, TokenScores]]:
        return scrambled([self._score(r) for r in requests])

    def _score(self, request: ScoreRequest) -> TokenScores:
        assert request.at_ids is None, "the reference is never scored here"
        logp = self.of(request.prompt_ids, request.completion_ids)
        if not request.top_k:
            return TokenScores(logp)
        rows = self.logp[[request.prompt_ids[-1], *request.completion_ids[:-1]]]
        ids = np.argsort(-rows, axis=-1, kind="stable")[:, : request.top_k]
        inside = np.take_along_axis(rows, ids, -1)
        top_k = TopK(ids, inside.astype(np.float32), complement_tail(inside), "complement")
        return TokenScores(logp, top_k=top_k)


def scrambled(results: list) -> Iterator[tuple[int, Any]]:
    """(index, result) in an order that mixes all units."""
    order = np.random.default_rng(len(results)).permutation(len(results))
    return ((int(i), results[i]) for i in order)
