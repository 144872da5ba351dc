"""Check a whole shard of a store at once, so that reading one of its rows costs a slice.

A shard that passes holds no row that the checks of ``data/scored.py`` refuse. One that does not
pass is checked row by row there, which finds the row and says what is wrong with it.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from leyden.data.limits import CERTAIN, MASS_TOLERANCE, ROUNDING
from leyden.store.shard import Columns, Lists

NEAR = 2e-4  # nats from -ln V; the check of a row has half of it


def ids_are_sound(columns: Columns, vocab_size: int) -> bool:
    """Whether every token id of the shard is below ``vocab_size``."""
    lists = [
        columns[name] for name in ("prompt_ids", "completion_ids", "topk_ids") if name in columns
    ]
    return all(
        isinstance(ids, Lists)
        and (not len(ids.values) or (ids.values.min() >= 0 and ids.values.max() < vocab_size))
        for ids in lists
    )


def scores_are_sound(columns: Columns, lengths: np.ndarray, vocab_size: int) -> bool:
    """Whether every row of a score shard could be of two models. ``lengths`` are the completion
    tokens of its rows."""
    return ids_are_sound(columns, vocab_size) and all(
        _model_is_sound(columns, model, lengths, vocab_size) for model in models_of(columns)
    )


def models_of(score: Mapping[str, Any]) -> list[str]:
    """The models whose scores a row, or a shard, holds; refreshed rollouts may do without the
    reference's."""
    return [model for model in ("teacher", "reference") if f"logp_{model}" in score]


def _model_is_sound(columns: Columns, model: str, lengths: np.ndarray, vocab_size: int) -> bool:
    logp = _values(columns, f"logp_{model}", lengths)
    if logp is None or not np.isfinite(logp).all() or (logp > ROUNDING).any():
        return False
    if (np.abs(logp + math.log(vocab_size)) < NEAR).any():  # perhaps a row without weights
        return False
    top_k, tail = _top_k(columns, model, lengths)
    if top_k is None and f"{model}_topk_logp" in columns:
        return False
    if top_k is not None and tail is not None:
        mass = np.exp(top_k.astype(np.float64)).sum(-1) + np.exp(tail)
        if not (np.abs(mass - 1) <= MASS_TOLERANCE).all():
            return False
    zero = logp == 0
    if not zero.any():
        return True
    doubt = _values(columns, f"{model}_entropy", lengths)
    if doubt is None and top_k is not None:
        doubt = -top_k.max(-1)
    return doubt is not None and not (zero & (doubt >= CERTAIN)).any()


def _top_k(
    columns: Columns, model: str, lengths: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Log-probs at the stored ids, [tokens, K], and tails, [tokens]; None where they do not fit."""
    ids, tokens = columns.get("topk_ids"), int(lengths.sum())
    if not isinstance(ids, Lists) or not tokens or len(ids.values) % tokens:
        return None, None
    k = len(ids.values) // tokens
    values = _values(columns, f"{model}_topk_logp", k * lengths)
    tail = _values(columns, f"{model}_tail_logp", lengths)
    if not k or values is None or tail is None or not np.isfinite(values).all():
        return None, None
    if not np.isfinite(tail).all() or not np.array_equal(np.diff(ids.offsets), k * lengths):
        return None, None
    return values.reshape(tokens, k), tail


def _values(columns: Columns, name: str, lengths: np.ndarray) -> np.ndarray | None:
    """All entries of a list column, if its lists have these lengths."""
    column = columns.get(name)
    if not isinstance(column, Lists) or not np.array_equal(np.diff(column.offsets), lengths):
        return None
    return column.entries
