"""Find a model named in a recipe: a folder here, or a snapshot of the Hugging Face Hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from leyden.data.tables import KINDS, kind_of
from leyden.errors import EngineError, first_line
from leyden.recipe.sampling import HubFiles, PromptFile

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
        beside = path.resolve().parent
        whole = (beside / "config.json").is_file() and path.suffix == ".safetensors"
        raise EngineError(
            f"{place}: is a file, not a model folder",
            hint=f"give its folder, {beside}" if whole else HINT + "; GGUF files are not read",
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


def fetched(source: PromptFile) -> list[Path] | None:
    """The files of prompts that are on the Hub; None where they are on this machine."""
    return data_files(source.hub) if source.hub else None


def data_files(hub: HubFiles) -> list[Path]:
    """The files of a Hub data set at one revision, in the order of their names.

    Raises EngineError where the Hub does not give them, or none are of that split.
    """
    from huggingface_hub import list_repo_files, snapshot_download

    name, revision, place = hub.repo, hub.revision, f"{hub.repo}@{hub.revision[:12]}"
    try:
        patterns = [hub.files] if hub.files is not None else []
        if not patterns:
            names = list_repo_files(name, revision=revision, repo_type="dataset")
            patterns = files_of_split(names, hub, place)
        home = Path(
            snapshot_download(name, revision=revision, repo_type="dataset", allow_patterns=patterns)
        )
    except EngineError:
        raise
    except Exception as error:  # as above
        raise EngineError(
            f"{place}: the Hub does not give this data set: {first_line(error)}",
            hint="check the network, or set file to a local copy",
        ) from error
    paths = sorted(p for pattern in patterns for p in home.glob(pattern) if p.is_file())
    if not paths:
        raise EngineError(
            f"{place}: holds no file {hub.files}", hint="set hub.files, or file to a local copy"
        )
    return paths


def files_of_split(names: Sequence[str], hub: HubFiles, place: str) -> list[str]:
    """The data files of a split, and of a configuration, by the Hub's conventions for names.

    Raises EngineError for none, and for several configurations of which none is asked for.
    """
    data = [name for name in names if kind_of(Path(name)) in KINDS]
    of_split = [name for name in data if _names(name, hub.split or "")]
    found = [name for name in of_split if hub.config is None or _names(name, hub.config)]
    configs = sorted({name.split("/")[0] for name in found if "/" in name} - {"data"})
    if not found or (hub.config is None and len(configs) > 1):
        what = f"has several configurations: {', '.join(configs[:20])}"
        if not found:
            held = ", ".join(sorted(data)[:8]) or "no data files"
            what = f"holds no file of the split {hub.split!r}; it holds {held}"
        raise EngineError(f"{place}: {what}", hint="set hub.config and hub.split, or hub.files")
    return found


def _names(path: str, word: str) -> bool:
    """Whether a folder or file of the path is called ``word``, perhaps with numbers beside it."""
    return re.search(rf"(?:^|[^A-Za-z]){re.escape(word)}(?:[^A-Za-z]|$)", path) is not None
