"""Refuse what is not a whole, plain model folder, from its files alone."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from leyden.errors import EngineError
from leyden.files import read_object
from leyden.models.weights import read_header

LFS = b"version https://git-lfs"
# Tensors that old checkpoints hold beside their weights and that are made anew from the config.
QUANTISED = ("I8", "U8", "I16", "U16", "F4", "F8_E8M0")  # wider integers are tables of ids
HARMLESS = re.compile(
    r"(rotary_emb\.inv_freq|attn\.(masked_)?bias|attention\.(masked_)?bias|position_ids)$"
)


def check_folder(folder: Path) -> None:
    """Raise EngineError where the folder holds something else than a whole, plain model."""
    if (folder / "adapter_config.json").is_file():
        raise EngineError(
            f"{folder}: is a PEFT adapter, not a model",
            hint="merge it into its base model (merge_and_unload) and save that",
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and (other := next(folder.glob("*.gguf"), None)):
        raise EngineError(
            f"{other}: GGUF weights are not read",
            hint="give the model that the GGUF file was made from, in the Hugging Face format",
        )
    for file in weights:
        with open(file, "rb") as opened:
            if opened.read(len(LFS)) == LFS:
                raise EngineError(
                    f"{file}: is a Git LFS pointer, not weights", hint="run `git lfs pull` there"
                )
    quantised = read_object(folder / "config.json").get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "an unknown method")
        raise EngineError(
            f"{folder}: its weights are quantised ({method})",
            hint="give the model that it was made from, or save it again in bfloat16",
        )
    for file in weights:
        _check_dtypes(file)


def _check_dtypes(file: Path) -> None:
    """Raise EngineError where weights are small integers, which would be cast without scales."""
    for name, entry in read_header(file).tensors.items():
        if (dtype := entry.get("dtype")) in QUANTISED and not HARMLESS.search(name):
            raise EngineError(
                f"{file}: {name} holds {dtype}, not floating-point numbers",
                hint="give the model that it was made from, or save it again in bfloat16",
            )


def check_loaded(folder: Path, info: Mapping[str, Collection[Any]]) -> None:
    """Raise EngineError where weights are missing or left over. ``info`` is Transformers' own."""
    if missing := sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"])):
        raise EngineError(
            f"{folder}: {len(missing)} weights are missing or misshapen, first {missing[0]}",
            hint="the weights do not belong to this config.json, or a shard is missing",
        )
    if left := sorted(name for name in info["unexpected_keys"] if not HARMLESS.search(name)):
        raise EngineError(
            f"{folder}: its files hold {len(left)} weights that its config.json has no place for, "
            f"first {left[0]}",
            hint=_origin(left),
        )


def _origin(names: Collection[str]) -> str:
    """A hint at the origin of such weights, as far as their names tell."""
    if any("lora_" in name for name in names):
        return "merge the LoRA adapter into the model (merge_and_unload) and save it again"
    if any("scale" in name for name in names):
        return "these are scales of quantised weights; give the model before it was quantised"
    return "restore the config.json that belongs to these weights"
