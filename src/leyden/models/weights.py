"""Look into safetensors files without loading a model: shards, names, numbers. No torch.

Source: the safetensors format, github.com/huggingface/safetensors: eight bytes with the length of a
JSON header, the header with each tensor's type, shape and place, then the data.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from leyden.errors import EngineError
from leyden.files import disk_errors, read_object

INDEX = "model.safetensors.index.json"
MOST_HEADER = 100 * 2**20  # bytes, safetensors' own limit
# The bits that are all ones in NaN and infinity, and the width of the numbers.
EXPONENTS = {
    "F32": (np.uint32, 0x7F800000), "BF16": (np.uint16, 0x7F80), "F16": (np.uint16, 0x7C00),
}  # fmt: skip
WINDOW = 4096  # numbers that are looked at in the beginning, middle and end of each tensor


def check_weights(folder: Path) -> int:
    """The bytes of a model's weights. Raises EngineError where a shard is missing or short, or
    where a sample of its numbers is not finite."""
    headers = {path.name: read_header(path) for path in sorted(folder.glob("*.safetensors"))}
    if (folder / INDEX).is_file():
        for tensor, name in dict(read_object(folder / INDEX, "weight_map")["weight_map"]).items():
            if name not in headers or tensor not in headers[name].tensors:
                what = f"holds no {tensor}" if name in headers else "is missing"
                raise EngineError(
                    f"{folder / name}: {what}, which {INDEX} names",
                    hint="copy the model again; a shard of it is not there, or not whole",
                )
    for name, header in headers.items():
        _check_numbers(folder / name, header)
    return sum((folder / name).stat().st_size for name in headers)


def has_weights(folder: Path) -> bool:
    """Whether all files of weights are there; of a Hub model, only some may have been fetched."""
    if (folder / INDEX).is_file():
        names = set(dict(read_object(folder / INDEX, "weight_map")["weight_map"]).values())
        return all((folder / str(name)).is_file() for name in names)
    return any(folder.glob("*.safetensors"))


def count_parameters(folder: Path) -> int:
    """The numbers in all tensors of a folder, by their headers."""
    headers = [read_header(path) for path in sorted(folder.glob("*.safetensors"))]
    return sum(math.prod(entry["shape"]) for h in headers for entry in h.tensors.values())


class Header(NamedTuple):
    """The tensors of a file by name, with ``dtype``, ``shape`` and ``data_offsets``, and the place
    in the file from which these count."""

    tensors: dict[str, dict[str, Any]]
    begins: int


def read_header(path: Path) -> Header:
    """The header of a safetensors file. Raises EngineError where it, or the file, is not whole."""
    with disk_errors(path), open(path, "rb") as file:
        first = file.read(8)
        size = struct.unpack("<Q", first)[0] if len(first) == 8 else MOST_HEADER + 1
        text = file.read(size) if size <= MOST_HEADER else b""
    try:
        tensors = json.loads(text)
        tensors.pop("__metadata__", None)
        ends = [8 + size + entry["data_offsets"][1] for entry in tensors.values()]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise _damaged(path, "its header cannot be read") from error
    if max(ends, default=0) > path.stat().st_size:
        raise _damaged(path, "it ends before its tensors do")
    return Header(tensors, 8 + size)


def _check_numbers(path: Path, header: Header) -> None:
    with disk_errors(path), open(path, "rb") as file:
        for name, entry in header.tensors.items():
            kind, mask = EXPONENTS.get(str(entry.get("dtype")), (None, 0))
            if kind is None:
                continue
            start, end = entry["data_offsets"]
            width = np.dtype(kind).itemsize
            count = (end - start) // width
            for place in sorted({0, max(0, count // 2), max(0, count - WINDOW)}):
                file.seek(header.begins + start + place * width)
                bits = np.frombuffer(file.read(min(WINDOW, count - place) * width), kind)
                if ((bits & mask) == mask).any():
                    raise EngineError(
                        f"{path}: {name} holds NaN or infinity",
                        hint="save the model again from a sound copy",
                    )


def _damaged(path: Path, what: str) -> EngineError:
    return EngineError(f"{path}: damaged: {what}", hint="restore it from a sound copy")
