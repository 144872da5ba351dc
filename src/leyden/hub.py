"""Where a model named in a recipe lies: a folder here, or a snapshot of the Hugging Face Hub."""

import re
from pathlib import Path

from leyden.errors import EngineError, first_line

FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def model_folder(place: str) -> Path:
    """The folder of ``place``: a path, or a Hub id ``org/name`` or ``org/name@revision``."""
    path = Path(place).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.is_absolute() or not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", place):
        raise EngineError(f"{place}: no such model folder", hint="check the path in [models]")
    from huggingface_hub import snapshot_download

    name, _, revision = place.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=FILES))
    except Exception as error:  # the Hub client raises requests', its own and OS errors
        raise EngineError(
            f"{place}: neither a folder nor a model the Hub gives: {first_line(error)}",
            hint="check the name, the network and `hf auth login`, or give a local folder",
        ) from error
