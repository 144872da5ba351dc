"""Load a causal language model and take it apart: hidden states here, head there.

The only file that knows how Transformers models are built.
"""

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from leyden.data.batches import TokenBatch
from leyden.errors import EngineError, first_line
from leyden.logprobs import Head, score_tokens

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Nats by which rounding may move a log-prob; soft-capping and scaling move it by whole nats.
HEAD_GAP_FLOAT32, HEAD_GAP_LOW = 1e-3, 0.25


def pick_device(name: str) -> torch.device:
    """The device named by ``execution.device``; of several GPUs this process's own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise EngineError("execution.device = 'cuda', and torch sees no GPU", hint="use 'auto'")
    own = f":{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" else ""
    return torch.device(name + own)


def load_model(folder: Path, *, device: str, dtype: str) -> PreTrainedModel:
    """A model in evaluation mode. Raises EngineError where it cannot be read or used."""
    logging.disable_progress_bar()  # progress is ours to show
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=DTYPES[dtype],
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except Exception as error:  # safetensors, json and transformers each have errors of their own
        raise EngineError(
            f"{folder}: the model cannot be loaded: {first_line(error)}",
            hint="check that the folder is a complete model in the Hugging Face format",
        ) from error
    if missing := sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"])):
        raise EngineError(
            f"{folder}: {len(missing)} weights are missing or misshapen, first {missing[0]}",
            hint="the weights do not belong to this config.json, or a shard is missing",
        )
    model = model.to(pick_device(device)).eval()
    check_head(model, folder)
    return model


def backbone(model: PreTrainedModel) -> nn.Module:
    """The model without its head: token ids to hidden states."""
    return model.base_model


def head_of(model: PreTrainedModel, vocab_size: int | None = None) -> Head:
    """The head over the ids below ``vocab_size``; models of one tokenizer pad it differently."""
    linear = model.get_output_embeddings()
    assert linear is not None, "check_head refused this model"
    bias = getattr(linear, "bias", None)
    return Head(linear.weight[:vocab_size], None if bias is None else bias[:vocab_size])


def computing(model: PreTrainedModel, dtype: torch.dtype) -> torch.autocast:
    """A context in which a float32 model computes in ``dtype``; a bfloat16 model needs none."""
    low = dtype != model.dtype and model.dtype == torch.float32
    return torch.autocast(model.device.type, dtype, enabled=low)


def hidden_states(
    model: PreTrainedModel, batch: TokenBatch, *, compute_dtype: torch.dtype = torch.float32
) -> Tensor:
    """The N states that predict the batch's completion tokens, [N, D]."""
    with computing(model, compute_dtype):
        output = backbone(model)(
            input_ids=batch.ids_BT,
            attention_mask=batch.attention_mask_BT,
            position_ids=batch.position_ids_BT,
            use_cache=False,
        )
    return output.last_hidden_state.flatten(0, 1)[batch.predict_N]


@torch.no_grad()
def check_head(model: PreTrainedModel, folder: Path) -> None:
    """Refuse a model whose logits are not hidden states times its head (soft-capping, scaling)."""
    if model.get_output_embeddings() is None:
        raise EngineError(f"{folder}: has no language-model head", hint="give a causal model")
    # Any ids show whether the head is linear. The model's own logits are the oracle.
    ids_1T = torch.arange(8, device=model.device)[None] % model.config.vocab_size
    expected = model(ids_1T).logits[0].float().log_softmax(-1)
    hidden = backbone(model)(ids_1T).last_hidden_state[0]
    ours = score_tokens(hidden, head_of(model), ids_1T[0]).logp_N.float()
    gap = (ours - expected.gather(-1, ids_1T[0, :, None])[:, 0]).abs().max().item()
    if gap > (HEAD_GAP_FLOAT32 if model.dtype == torch.float32 else HEAD_GAP_LOW):
        raise EngineError(
            f"{folder}: its logits are not hidden states times a head (off by {gap:.3g} nats)",
            hint="models with soft-capped or scaled logits are not supported",
        )
