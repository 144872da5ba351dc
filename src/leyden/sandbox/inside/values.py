"""Encode Python values as JSON and back with their types: a tuple stays a tuple, NaN stays NaN.

Both sides of the sandbox use it. Reading never runs anything. A value without an encoding becomes
an ``Opaque``, which equals nothing.
"""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

PLAIN = (type(None), bool, str)
SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
VIEWS = (type({}.keys()), type({}.items()))
SMALL = 2**53


class Opaque:
    """A value of a type that has no encoding."""

    def __init__(self, kind: str, shown: str) -> None:
        self.kind, self.shown = kind, shown

    def __repr__(self) -> str:
        return f"<{self.kind}: {self.shown}>"


def encode(value: Any) -> Any:
    """Encode a value: plain ones as they are, everything else as [type, content]."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if isinstance(value, int):  # derived types too, such as an IntEnum
        return int(value) if -SMALL < value < SMALL else ["int", hex(value)]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else ["float", float(value).hex()]
    if isinstance(value, str):
        return str(value)
    if kind is complex:
        return ["complex", value.real.hex(), value.imag.hex()]
    if kind in (bytes, bytearray):
        return ["bytes", value.hex()]
    for name in ("list", "tuple", "frozenset", "set"):  # derived types too, such as a namedtuple
        if isinstance(value, SEQUENCES[name]):
            return [name, [encode(item) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[encode(k), encode(v)] for k, v in value.items()]]
    if isinstance(value, VIEWS):  # equal to sets, and in an order
        name = "keys" if kind is VIEWS[0] else "items"
        return [name, [encode(item) for item in value]]
    if kind.__module__ == "numpy":
        return encode(value.tolist())
    if isinstance(value, Fraction | Decimal):  # equal to other numbers, by value
        return encode(int(value) if value == value // 1 else float(value))
    return ["opaque", kind.__name__, repr(value)[:200]]


def decode(encoded: Any) -> Any:
    """Read what ``encode`` wrote. Raises ValueError, TypeError or RecursionError on anything
    else."""
    if isinstance(encoded, PLAIN) or type(encoded) in (int, float):
        return encoded
    if not isinstance(encoded, list) or not encoded:
        raise ValueError(f"not an encoded value: {encoded!r:.60}")
    kind, content = encoded[0], encoded[1:]
    if kind in SEQUENCES:
        return SEQUENCES[kind](decode(item) for item in content[0])
    if kind == "keys":
        return dict.fromkeys(decode(item) for item in content[0]).keys()
    if kind == "items":
        return dict(decode(item) for item in content[0]).items()
    if kind == "dict":
        return {decode(k): decode(v) for k, v in content[0]}
    if kind == "complex":
        return complex(float.fromhex(content[0]), float.fromhex(content[1]))
    if kind == "opaque":
        return Opaque(*content)
    readers = {"int": lambda t: int(t, 16), "float": float.fromhex, "bytes": bytes.fromhex}
    if kind not in readers:
        raise ValueError(f"not an encoded value: {encoded!r:.60}")
    return readers[kind](content[0])
