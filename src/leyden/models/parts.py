"""A causal language model taken apart: hidden states here, head there.

The only file that knows how Transformers models are built.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from leyden.data.batches import TokenBatch
from leyden.logprobs import Head


def backbone(model: PreTrainedModel) -> nn.Module:
    """The model without its head: token ids to hidden states."""
    base = model.base_model
    return model.get_submodule("model") if base is model else base  # Llama 4 names another base


def head_of(model: PreTrainedModel, vocab_size: int | None = None) -> Head:
    """The head over the ids below ``vocab_size``; models of one tokenizer pad it differently."""
    linear = model.get_output_embeddings()
    assert linear is not None, "check_head refused this model"
    bias = getattr(linear, "bias", None)
    scale, cap = _after_head(model.config.get_text_config())
    return Head(linear.weight[:vocab_size], None if bias is None else bias[:vocab_size], scale, cap)


def _after_head(config: Any) -> tuple[float, float | None]:
    """(factor, soft cap) of the logits in the model's own forward; ``check_head`` proves them."""
    factor = getattr(config, "logit_scale", None) or 1.0  # Cohere
    factor *= getattr(config, "lm_head_multiplier", None) or 1.0  # Falcon-H1
    factor /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    return factor, getattr(config, "final_logit_softcapping", None)  # Gemma, nanochat


def computing(model: PreTrainedModel, dtype: torch.dtype) -> torch.autocast:
    """A context in which a float32 model computes in ``dtype``; a bfloat16 model needs none."""
    low = dtype != model.dtype and model.dtype == torch.float32
    return torch.autocast(model.device.type, dtype, enabled=low)


def run_backbone(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """The N states that predict the batch's completion tokens, [N, D]."""
    output = backbone(model)(
        input_ids=batch.ids_BT,
        attention_mask=batch.attention_mask_BT,
        position_ids=batch.position_ids_BT,
        use_cache=False,
    )
    return output.last_hidden_state.flatten(0, 1)[batch.predict_N]
