"""Python values as JSON and back, told apart by type: a tuple stays a tuple, NaN stays NaN.

Used on both sides of the sandbox. Reading never runs anything: what has no encoding becomes an
``Opaque``, equal to nothing.
"""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

PLAIN = (type(None), bool, str)
SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
SMALL = 2**53


class Opaque:
    """A value of a type that has no encoding."""

    def __init__(self, kind: str, shown: str) -> None:
        self.kind, self.shown = kind, shown

    def __repr__(self) -> str:
        return f"<{self.kind}: {self.shown}>"


def encode(value: Any) -> Any:
    """JSON values: plain ones as they are, everything else as [type, content]."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if isinstance(value, int):  # and what is derived from it, such as an IntEnum
        return int(value) if -SMALL < value < SMALL else ["int", hex(value)]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else ["float", float(value).hex()]
    if isinstance(value, str):
        return str(value)
    if kind is complex:
        return ["complex", value.real.hex(), value.imag.hex()]
    if kind in (bytes, bytearray):
        return ["bytes", value.hex()]
    for name in ("list", "tuple", "frozenset", "set"):  # and what is derived, such as a namedtuple
        if isinstance(value, SEQUENCES[name]):
            return [name, [encode(item) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[encode(k), encode(v)] for k, v in value.items()]]
    if kind.__module__ == "numpy":
        return encode(value.tolist())
    if isinstance(value, Fraction | Decimal):  # equal to other numbers, by value
        return encode(int(value) if value == value // 1 else float(value))
    return ["opaque", kind.__name__, repr(value)[:200]]


def decode(found: Any) -> Any:
    """What ``encode`` wrote. Raises ValueError, TypeError or RecursionError on anything else."""
    if isinstance(found, PLAIN) or type(found) in (int, float):
        return found
    if not isinstance(found, list) or not found:
        raise ValueError(f"not an encoded value: {found!r:.60}")
    kind, content = found[0], found[1:]
    if kind in SEQUENCES:
        return SEQUENCES[kind](decode(item) for item in content[0])
    if kind == "dict":
        return {decode(k): decode(v) for k, v in content[0]}
    if kind == "complex":
        return complex(float.fromhex(content[0]), float.fromhex(content[1]))
    if kind == "opaque":
        return Opaque(*content)
    readers = {"int": lambda t: int(t, 16), "float": float.fromhex, "bytes": bytes.fromhex}
    if kind not in readers:
        raise ValueError(f"not an encoded value: {found!r:.60}")
    return readers[kind](content[0])
