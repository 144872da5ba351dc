"""Positions beyond which the scores of a sequence depend on the longest one in its batch.

The rotary embedding ``longrope`` switches all positions of a batch to other factors, and
``dynamic`` scales them by the longest sequence so far. Up to the length that the model was first
trained for, both are fixed. Sparse attention to the k likeliest keys sees all of them up to k;
beyond, equal keys are told apart by the length of the batch.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from leyden.errors import EngineError

SELECTED = ("keep_window_size", "index_topk")  # numbers of keys: Doge; DeepSeek from V3.2 on


def position_limit(config: Any) -> int | None:
    """The longest sequence, in tokens, with log-probs of its own; None where there is no limit."""
    limits = [int(k) for k in (getattr(config, name, None) for name in SELECTED) if k]
    for rope in _ropes(getattr(config, "rope_parameters", None)):
        if rope.get("rope_type") == "dynamic":
            limits.append(int(config.max_position_embeddings))
        elif rope.get("rope_type") == "longrope":
            first = rope.get("original_max_position_embeddings")
            limits.append(int(first or config.max_position_embeddings))
    return min(limits, default=None)


def _ropes(parameters: Any) -> list[Mapping[str, Any]]:
    """The settings of each rotary embedding: one for all layers, or one for each kind of layer."""
    if not isinstance(parameters, Mapping):
        return []
    if "rope_type" in parameters:
        return [parameters]
    return [value for value in parameters.values() if isinstance(value, Mapping)]


def check_positions(model: PreTrainedModel, position_ids_BT: Tensor) -> None:
    """Raise EngineError where a position is beyond the model's limit, if it has one."""
    limit = position_limit(model.config.get_text_config())
    if limit is not None and int(position_ids_BT.max()) >= limit:
        raise EngineError(
            f"{model.name_or_path}: sequences over {limit} tokens would score by the longest one "
            "in their batch (its rotary embedding, or its choice of keys, changes there)",
            hint=f"keep prompt and completion within {limit} tokens",
        )
