"""Load a causal language model, find out whether it can be used, and run it on a batch."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from leyden.data.batches import TokenBatch
from leyden.errors import EngineError, first_line
from leyden.models.checks import check_model, check_packing, fused_attention_is_right
from leyden.models.context import check_positions
from leyden.models.folder import check_folder, check_loaded
from leyden.models.parts import computing, run_backbone

FUSED, EAGER = "sdpa", "eager"  # names that Transformers gives to two ways of attention
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(name: str) -> torch.device:
    """The device named by ``execution.device``; of several GPUs this process's own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise EngineError("execution.device = 'cuda', and torch sees no GPU", hint="use 'auto'")
    own = f":{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" else ""
    return torch.device(name + own)


def load_model(folder: Path, *, device: str, dtype: str, layout: str = "padded") -> PreTrainedModel:
    """A model in evaluation mode that can score batches of this ``layout``.

    Raises EngineError where it cannot be read, or where its log-probs would not be right.
    """
    logging.disable_progress_bar()  # progress is ours to show
    check_folder(folder)
    model = _read(folder, DTYPES[dtype], FUSED).to(pick_device(device)).eval()
    if model.config._attn_implementation == FUSED and not fused_attention_is_right(model):
        del model  # two would not fit where one does
        model = _read(folder, DTYPES[dtype], EAGER).to(pick_device(device)).eval()
    check_model(model)
    if layout == "packed":
        check_packing(model)
    return model


def _read(folder: Path, dtype: torch.dtype, attention: str) -> Any:
    """The model with this attention, or with the eager one where its architecture lacks it."""
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except Exception as error:  # safetensors, json and transformers each have errors of their own
        if attention == FUSED and "scaled_dot_product_attention" in str(error):
            return _read(folder, dtype, EAGER)
        raise EngineError(
            f"{folder}: the model cannot be loaded: {first_line(error)}",
            hint="check that the folder is a complete model in the Hugging Face format, of an "
            "architecture that this version of Transformers knows",
        ) from error
    check_loaded(folder, info)
    return model


def hidden_states(
    model: PreTrainedModel, batch: TokenBatch, *, compute_dtype: torch.dtype = torch.float32
) -> Tensor:
    """The N states that predict the batch's completion tokens, [N, D].

    Raises EngineError where the model would give them other states than each sequence alone.
    """
    if batch.attention_mask_BT is None:
        check_packing(model)
    check_positions(model, batch.position_ids_BT)
    with computing(model, compute_dtype):
        return run_backbone(model, batch)
