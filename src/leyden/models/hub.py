"""Find a model named in a recipe: a folder here, or a snapshot of the Hugging Face Hub."""

import re
from pathlib import Path

from leyden.errors import EngineError, first_line

HINT = "give a folder in the Hugging Face format, or a Hub id such as org/name"
WEIGHTS = "*.safetensors"
SMALL_FILES = ["*.json", "*.model", "*.txt", "*.jinja"]


def model_folder(place: str, *, weights: bool = True) -> Path:
    """The folder of ``place``, a path or a Hub id ``org/name`` or ``org/name@revision``.

    A model of the Hub is fetched, its ``weights`` only if asked for. Raises EngineError where there
    is none.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.is_file():
        raise EngineError(
            f"{place}: is a file, not a model folder",
            hint=f"give the folder that holds it and its config.json, such as {path.parent}",
        )
    if path.is_absolute() or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w.-]+)?", place):
        raise EngineError(f"{place}: no such model folder", hint=HINT)
    from huggingface_hub import snapshot_download

    name, _, revision = place.partition("@")
    try:
        files = [*SMALL_FILES, *[WEIGHTS] * weights]
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=files))
    except Exception as error:  # the Hub client raises requests', its own and OS errors
        raise EngineError(
            f"{place}: neither a folder nor a model the Hub gives: {first_line(error)}",
            hint="check the name, the network and `hf auth login`, or give a local folder",
        ) from error


def hub_files(repo: str, *, revision: str, pattern: str) -> list[Path]:
    """The files of a Hub data set that match a glob, at one revision, in the order of names."""
    from huggingface_hub import snapshot_download

    try:
        home = snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns=[pattern]
        )
    except Exception as error:  # as above
        raise EngineError(
            f"{repo}@{revision[:12]}: the Hub does not give this data set: {first_line(error)}",
            hint="check the network, or set problems.file to a local copy of its file",
        ) from error
    paths = sorted(path for path in Path(home).glob(pattern) if path.is_file())
    if not paths:
        raise EngineError(
            f"{repo}@{revision[:12]}: holds no file {pattern}",
            hint="set problems.hub.files, or problems.file to a local copy",
        )
    return paths
