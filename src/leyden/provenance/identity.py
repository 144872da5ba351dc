"""Identify models, tokenizers and settings by hashes of their content, never by names or places.

A model's identity is a sha256 over its parts. Each part has a hash of its own, so that a mismatch
can name the part that differs. Nothing here loads a model: torch and transformers stay out.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from leyden.errors import EngineError, StoreError
from leyden.files import cache_home, read_json, read_object, require_regular, write_atomic

VOLATILE = {  # config.json keys that say how a model was saved or runs, not what it computes
    "_name_or_path", "_attn_implementation", "_attn_implementation_internal",
    "transformers_version", "torch_dtype", "dtype", "use_cache", "quantization_config",
}  # fmt: skip
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt",
    "added_tokens.json", "special_tokens_map.json",
)  # fmt: skip
TOKENIZER_VOLATILE = {"chat_template", "name_or_path", "tokenizer_file", "transformers_version"}
STOP_KEYS = ("eos_token_id", "bos_token_id", "pad_token_id")
SETTLED_NS = 2 * 10**9
_FRESH = ContextVar("fresh", default=False)
_hashed: dict[tuple[str, "FileMark"], str] = {}
CACHE_FROM_BYTES = 64 * 2**20  # smaller files are hashed in well under a second


@dataclass(frozen=True)
class ModelIdentity:
    """A hex sha256, ``digest``, over ``parts``: part -> hex sha256, or "" where it is absent."""

    digest: str
    parts: dict[str, str]

    def differences(self, other: "ModelIdentity") -> list[str]:
        """Names of the parts that differ."""
        names = sorted(self.parts.keys() | other.parts.keys())
        return [n for n in names if self.parts.get(n, "") != other.parts.get(n, "")]


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces. Raises TypeError on a value that JSON cannot hold."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True
    ).encode()


def fingerprint(value: Any) -> str:
    """Hex sha256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on nothing else."""
    return int(fingerprint(list(parts))[:16], 16) >> 1  # 63 bits fit a signed column


def derive_seeds(*parts: int | str, names: Iterable[str], count: int) -> Iterator[int]:
    """``derive_seed(*parts, name, i)`` for i from 0 to ``count``, for each name in turn.

    The parts are written as JSON once. For millions of rows that is four times as fast.
    """
    begun = hashlib.sha256(canonical_json(list(parts))[:-1] + b",")
    for name in names:
        of_name = begun.copy()
        of_name.update(json.dumps(name).encode() + b",")
        for i in range(count):
            whole = of_name.copy()
            whole.update(b"%d]" % i)
            yield int.from_bytes(whole.digest()[:8], "big") >> 1


def hash_file(path: Path) -> str:
    """Hex sha256 of a file's bytes; large files are cached by (path, size, times, inode)."""
    real = path.resolve()
    if _FRESH.get():
        return _hash_bytes_of(real)
    if real.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", real.name):
        return real.name  # the Hub cache names its large files by their sha256
    mark = file_mark(real)
    if mark.size < CACHE_FROM_BYTES:
        return _hash_bytes_of(real)
    cached = cache_home() / "sha256" / fingerprint([str(real), *mark])
    if cached.exists() and (known := _read_hash(cached)):
        return known
    digest = _hash_bytes_of(real)
    with contextlib.suppress(StoreError):  # a cache that cannot be written only costs time
        write_atomic(cached, f"{digest} {fingerprint(digest)}\n".encode())
    return digest


def _read_hash(cached: Path) -> str:
    """The hash in a file of the cache; empty where the file is damaged."""
    with contextlib.suppress(OSError, UnicodeDecodeError, ValueError):
        digest, check = cached.read_text().split()
        return digest if check == fingerprint(digest) else ""
    return ""


@contextlib.contextmanager
def hashed_afresh() -> Iterator[None]:
    """Within this block every file is read; no cache and no file name vouches for its content."""
    token = _FRESH.set(True)
    try:
        yield
    finally:
        _FRESH.reset(token)


def hash_once(path: Path) -> str:
    """Hex sha256 of a file's bytes, read once per process unless the file has changed since.

    A file that changed in the last seconds is read every time: its times are too coarse to tell.
    """
    mark = file_mark(path)
    if _FRESH.get() or time.time_ns() - mark.ctime_ns < SETTLED_NS:
        return _hash_bytes_of(path)
    key = (str(path.resolve()), mark)
    if key not in _hashed:
        _hashed[key] = _hash_bytes_of(path)
    return _hashed[key]


class FileMark(NamedTuple):
    """A file as its file system describes it. An edit changes at least one of these: a program can
    set back mtime, but not ctime."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


def file_mark(path: Path | str) -> FileMark:
    """The mark of the file at ``path``, as it is now."""
    status = os.stat(path)
    return FileMark(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _hash_bytes_of(path: Path) -> str:
    require_regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


MERGE = (
    "merge it into its base model with PEFT's merge_and_unload(), save that, and give its folder"
)


def identify_model(folder: Path) -> ModelIdentity:
    """The identity of a model folder in the Hugging Face format.

    Raises EngineError when the folder, its config.json or its safetensors weights are missing.
    """
    config = _read_config(folder)
    parts = {
        "weights": _weights_part(folder),
        "config": fingerprint({k: v for k, v in config.items() if k not in VOLATILE}),
        "quantisation": _part(config.get("quantization_config")),
        "tokenizer": tokenizer_part(folder),
        "template": _part(read_template(folder)),
        "stop tokens": _part(_stop_ids(folder, config)),
    }
    return ModelIdentity(fingerprint(parts), parts)


def _part(value: Any) -> str:
    return fingerprint(value) if value else ""


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise EngineError(
            f"{folder}: no such model folder", hint="give a folder in the Hugging Face format"
        )
    if (folder / "config.json").is_file():
        return read_object(folder / "config.json")
    what, hint = "has no config.json", "give a folder in the Hugging Face format"
    if (folder / "adapter_config.json").is_file():
        base = read_object(folder / "adapter_config.json").get("base_model_name_or_path")
        what, hint = f"is a PEFT adapter of {base}, not a model", MERGE
    elif (folder / "model" / "config.json").is_file():
        what, hint = "holds a model, and is none", f"give {folder / 'model'}"
    elif files := sorted(folder.glob("*.gguf")):
        what, hint = f"holds {files[0].name}, and GGUF files are not read", "give the safetensors"
    raise EngineError(f"{folder}: {what}", hint=hint)


def _weights_part(folder: Path) -> str:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise EngineError(
            f"{folder}: has no *.safetensors weights",
            hint="save the model with save_pretrained(); pickled weights are not read",
        )
    hashes: dict[str, Any] = {file.name: hash_file(file) for file in files}
    # An adapter's scale and a sharded model's map decide the weights as much as the tensors do.
    for name in ("adapter_config.json", "model.safetensors.index.json"):
        if (folder / name).exists():
            hashes[name] = read_object(folder / name)
    return fingerprint(hashes)


def tokenizer_part(folder: Path) -> str:
    """Hash of the files that turn text into ids and back, without the chat template."""
    content: dict[str, Any] = {}
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            file = folder / name
            content[name] = read_json(file) if name.endswith(".json") else hash_file(file)
    if (folder / "tokenizer_config.json").is_file():
        settings = read_object(folder / "tokenizer_config.json")
        content["settings"] = {k: v for k, v in settings.items() if k not in TOKENIZER_VOLATILE}
    return _part(content)


def read_template(folder: Path) -> Any:
    """The content of the chat template (or templates), by file; None where there is none."""
    files = sorted([*folder.glob("chat_template.*"), *folder.glob("additional_chat_templates/*")])
    templates: Mapping[str, Any] = {f.name: hash_file(f) for f in files if f.is_file()}
    settings = folder / "tokenizer_config.json"
    inline = read_object(settings).get("chat_template") if settings.is_file() else None
    return {**templates, "inline": inline} if templates or inline else None


def _stop_ids(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    generation = folder / "generation_config.json"
    values = {**config, **(read_object(generation) if generation.is_file() else {})}
    return {key: values[key] for key in STOP_KEYS if values.get(key) is not None}
