"""Write questions to vLLM's and SGLang's servers, and read their answers.

Every answer is read strictly: a log-prob that is missing, is no number, or belongs to another token
than the one asked about is a ``Lie``, since nothing later could tell it from a true one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from leyden.engines.base import (
    Completion,
    GenerateRequest,
    ScoreRequest,
    TokenScores,
    TopK,
    complement_tail,
)
from leyden.engines.http import Json
from leyden.recipe.sampling import Sampling

UNSAID = -9999.0  # what vLLM's server sends in place of -inf, and older ones of NaN


class Lie(Exception):
    """An answer that is not one; the message is a clause that says what is wrong with it."""


class Api(Protocol):
    """One kind of server."""

    path: str

    def sample(self, request: GenerateRequest, sampling: Sampling, stop_ids: Sequence[int]) -> Json:
        """The question for a completion."""
        ...

    def completion(self, answer: Json, request: GenerateRequest) -> Completion:
        """Raises Lie."""
        ...

    def score(self, request: ScoreRequest) -> Json:
        """The question for scores."""
        ...

    def scores(self, answer: Json, request: ScoreRequest) -> TokenScores:
        """Raises Lie."""
        ...


class VllmApi:
    """vLLM's ``/v1/completions``, by token ids. Every setting is sent: those left out would come
    from the served model's generation_config.json."""

    path = "/v1/completions"

    def __init__(self, model: str) -> None:
        self.model = model

    def _question(self, ids: Sequence[int]) -> Json:
        return {
            "model": self.model, "prompt": ids, "add_special_tokens": False,
            "return_token_ids": True, "return_tokens_as_token_ids": True,
            "skip_special_tokens": False, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
            "presence_penalty": 0.0, "frequency_penalty": 0.0, "ignore_eos": True, "n": 1,
        }  # fmt: skip

    def sample(self, request: GenerateRequest, sampling: Sampling, stop_ids: Sequence[int]) -> Json:
        return self._question([int(i) for i in request.prompt_ids]) | {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": request.cap(sampling),
            "seed": int(request.seed),
            "stop_token_ids": [int(i) for i in stop_ids],
            "include_stop_str_in_output": True,
            "logprobs": 0,
        }

    def completion(self, answer: Json, request: GenerateRequest) -> Completion:
        choice = _at(answer, "choices", 0)
        _same_prompt(choice, answer, list(request.prompt_ids))
        ids, logp = _at(choice, "token_ids"), _at(choice, "logprobs", "token_logprobs")
        return Completion(_ids(ids), _log_probs(logp), str(_at(choice, "finish_reason")))

    def score(self, request: ScoreRequest) -> Json:
        ids = [*request.prompt_ids.tolist(), *request.completion_ids.tolist()]
        return self._question(ids) | {
            "temperature": 1.0, "top_p": 1.0, "max_tokens": 1, "seed": 0,
            "prompt_logprobs": request.top_k,
        }  # fmt: skip

    def scores(self, answer: Json, request: ScoreRequest) -> TokenScores:
        choice, start = _at(answer, "choices", 0), len(request.prompt_ids)
        _same_prompt(
            choice, answer, [*request.prompt_ids.tolist(), *request.completion_ids.tolist()]
        )
        rows = _at(choice, "prompt_logprobs")
        _same_length(rows, start + len(request.completion_ids))
        entries = [_by_id(row) for row in rows[start:]]
        return _token_scores(request, entries)


class SglangApi:
    """SGLang's own ``/generate``, by token ids."""

    path = "/generate"

    def sample(self, request: GenerateRequest, sampling: Sampling, stop_ids: Sequence[int]) -> Json:
        return {
            "input_ids": [int(i) for i in request.prompt_ids],
            "return_logprob": True,
            "sampling_params": _PLAIN
            | {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_new_tokens": request.cap(sampling),
                "sampling_seed": int(request.seed) % 2**31,
                "stop_token_ids": [int(i) for i in stop_ids],
            },
        }

    def completion(self, answer: Json, request: GenerateRequest) -> Completion:
        _read_tokens(_at(answer, "meta_info"), len(request.prompt_ids))
        pairs = _at(answer, "meta_info", "output_token_logprobs")
        ids, logp = _ids([_at(p, 1) for p in pairs]), _log_probs([_at(p, 0) for p in pairs])
        given = _ids(_at(answer, "output_ids"))
        if not np.array_equal(ids, given):
            raise Lie("its log-probs are not of the tokens it gave")
        return Completion(ids, logp, str(_at(answer, "meta_info", "finish_reason", "type")))

    def score(self, request: ScoreRequest) -> Json:
        ids = [*request.prompt_ids.tolist(), *request.completion_ids.tolist()]
        return {
            "input_ids": ids,
            "return_logprob": True,
            "logprob_start_len": len(request.prompt_ids) - 1,
            "top_logprobs_num": request.top_k,
            "sampling_params": _PLAIN | {"temperature": 1.0, "max_new_tokens": 1},
        }

    def scores(self, answer: Json, request: ScoreRequest) -> TokenScores:
        meta, count = _at(answer, "meta_info"), len(request.completion_ids)
        _read_tokens(meta, len(request.prompt_ids) + count)
        given = _at(meta, "input_token_logprobs")
        if not isinstance(given, list) or len(given) < count:
            raise Lie(f"it scored {len(given or [])} tokens of {count}")
        entries = [{_id(_at(p, 1)): _at(p, 0)} for p in given[-count:]]
        if request.top_k:
            listed = _at(meta, "input_top_logprobs")
            if not isinstance(listed, list) or len(listed) < count:
                raise Lie("it left out the likeliest tokens of some positions")
            for entry, row in zip(entries, listed[-count:], strict=True):
                likeliest = {_id(_at(p, 1)): _at(p, 0) for p in row or []}
                entry |= {i: logp for i, logp in likeliest.items() if i not in entry}
        return _token_scores(request, entries)


_PLAIN = {
    "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "ignore_eos": True, "skip_special_tokens": False,
    "no_stop_trim": True,
}  # fmt: skip


def _token_scores(request: ScoreRequest, entries: Sequence[Mapping[int, Any]]) -> TokenScores:
    """Scores from the {id: log-prob} of each position: of the given token and the likeliest."""
    values = []
    for token, entry in zip(request.completion_ids.tolist(), entries, strict=True):
        if token not in entry:
            raise Lie(f"it did not score token {token}, which was asked about")
        values.append(entry[token])
    logp = _log_probs(values)
    if not request.top_k:
        return TokenScores(logp)
    ids, likeliest = [], []
    for token, entry in zip(request.completion_ids.tolist(), entries, strict=True):
        others = entry.keys() - {token} if len(entry) > request.top_k else entry.keys()
        if len(others) != request.top_k:
            raise Lie(f"it gave {len(others)} of the {request.top_k} likeliest tokens")
        order = sorted(others, key=lambda i: (-_finite(entry[i]), i))
        ids.append(order)
        likeliest.append([entry[i] for i in order])
    columns = np.array(likeliest, np.float32)
    return TokenScores(
        logp, top_k=TopK(np.array(ids, np.int32), columns, complement_tail(columns), "complement")
    )


def _same_prompt(choice: Any, answer: Json, ids: list[int]) -> None:
    """vLLM repeats the prompt that it read, and counts it."""
    read = choice.get("prompt_token_ids") if isinstance(choice, dict) else None
    if read is not None and read != [int(i) for i in ids]:
        raise Lie("it read another prompt than it was given")
    usage = answer.get("usage")
    _read_tokens(usage if isinstance(usage, dict) else {}, len(ids))


def _read_tokens(counts: Mapping[str, Any], expected: int) -> None:
    """The number of tokens that the server says it read, where it says so."""
    read = counts.get("prompt_tokens") if isinstance(counts, Mapping) else None
    if read is not None and read != expected:
        raise Lie(f"it read a prompt of {read} tokens, and was given {expected}")


def _by_id(row: Any) -> dict[int, Any]:
    """{id: log-prob} of a position, as vLLM's server writes it."""
    if not isinstance(row, dict) or not row:
        raise Lie("it left out the log-probs of a token")
    return {_id(key): _at(value, "logprob") for key, value in row.items()}


def _id(value: Any) -> int:
    """A token id; as vLLM may write it, ``token_id:7`` or ``"7"``."""
    text = str(value).removeprefix("token_id:")
    if isinstance(value, bool) or not text.isdecimal() or len(text) > 9 or str(int(text)) != text:
        raise Lie(f"it names a token {repr(value)[:40]}, which is no id")
    return int(text)


def _ids(values: Any) -> np.ndarray:
    if not isinstance(values, list) or not values:
        raise Lie("it gave no token ids")
    return np.array([_id(v) for v in values], np.int32)


def _log_probs(values: Any) -> np.ndarray:
    if not isinstance(values, list):
        raise Lie("it gave no log-probs")
    return np.array([_finite(v) for v in values], np.float32)


def _finite(value: Any) -> float:
    if type(value) is not float and not (type(value) is int and abs(value) < 2**31):
        raise Lie(f"a log-prob is {str(value)[:40]}")
    if not np.isfinite(value):
        raise Lie(f"a log-prob is {value!r}")
    if value <= UNSAID:
        raise Lie(f"a log-prob is {value}, which stands for one that it cannot say")
    return float(value)


def _same_length(rows: Any, count: int) -> None:
    if not isinstance(rows, list) or len(rows) != count:
        found = len(rows) if isinstance(rows, list) else 0
        raise Lie(f"it scored {found} tokens of {count}")


def _at(value: Any, *path: str | int) -> Any:
    """The value at a path of keys and indices."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError) as error:
            raise Lie(f"its answer has no {step!r}") from error
    return value
