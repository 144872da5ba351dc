"""Messages over a pipe: a header of JSON values, and arrays.

A frame is the header's length in eight bytes, the header, and the bytes of its arrays, whose types
and shapes it names. Both ends use this file.
"""

import json
from typing import Any, BinaryIO

import numpy as np

ARRAYS = "arrays"
DTYPES = ("int32", "int64", "float32")
Frame = tuple[dict[str, Any], list[np.ndarray]]


def write_frame(stream: BinaryIO, header: dict[str, Any], *arrays: np.ndarray) -> None:
    """Write one frame. Raises BrokenPipeError where nobody reads any more."""
    described = [[array.dtype.name, list(array.shape)] for array in arrays]
    head = json.dumps({**header, ARRAYS: described}).encode()
    parts = [len(head).to_bytes(8, "big"), head, *(array.tobytes() for array in arrays)]
    stream.write(b"".join(parts))
    stream.flush()


def read_frame(stream: BinaryIO) -> Frame | None:
    """Read one frame, or None at the end of the stream, also in the middle of a frame."""
    length = _exactly(stream, 8)
    head = length and _exactly(stream, int.from_bytes(length, "big"))
    if not head:
        return None
    header = json.loads(head)
    arrays = []
    for name, shape in header.pop(ARRAYS):
        if name not in DTYPES:
            raise ValueError(f"a frame holds an array of {name}")
        dtype = np.dtype(name)
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        content = _exactly(stream, size) if size else b""
        if content is None:
            return None
        arrays.append(np.frombuffer(content, dtype).reshape(shape))
    return header, arrays


def _exactly(stream: BinaryIO, size: int) -> bytes | None:
    content = stream.read(size)
    return content if content is not None and len(content) == size else None
