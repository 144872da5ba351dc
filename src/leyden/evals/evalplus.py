"""When a program's result is the reference solution's: the rules of EvalPlus, for its own files.

Source: EvalPlus (arXiv 2305.01210), evalplus/eval: exact equality, but floats within a tolerance;
a few problems have rules of their own, listed here by name.
"""

import math
from typing import Any

RELATIVE = 1e-7
FLOATS = 1e-6  # absolute, where the reference answers in floats and the problem sets no tolerance
AS_SETS = {
    "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
    "intersection_array", "find_dissimilar", "Diff",
}  # fmt: skip  # MBPP problems whose statement leaves the order open
ONLY_WHETHER = {"check_str", "text_match_three", "text_starta_endb"}  # a match object or True
ROOT = "find_zero"  # HumanEval/32: any root of the polynomial


def same_result(found: Any, expected: Any, tests: dict[str, Any], arguments: list[Any]) -> bool:
    """``tests`` names the function and its ``atol``."""
    name, atol = tests["function"], tests["atol"]
    try:
        if tests["task"].startswith("Mbpp"):
            if name in AS_SETS:
                return set(found) == set(expected)
            if name in ONLY_WHETHER:
                return (found is not None and found is not False) == (
                    expected is not None and expected is not False
                )
        elif name == ROOT:
            return abs(_polynomial(arguments[0], found)) <= (atol or FLOATS)
        if found == expected:
            return True
        tolerance = atol or (FLOATS if _floats(expected) else 0)
        return bool(tolerance) and _close(found, expected, tolerance)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return False


def _polynomial(coefficients: list[Any], x: Any) -> float:
    return sum(c * math.pow(x, i) for i, c in enumerate(coefficients))


def _floats(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _close(found: Any, expected: Any, tolerance: float) -> bool:
    """As numpy.allclose of the two, element by element."""
    if isinstance(expected, list | tuple):
        if type(found) is not type(expected) or len(found) != len(expected):
            return False
        return all(_close(f, e, tolerance) for f, e in zip(found, expected, strict=True))
    if not isinstance(found, int | float) or not isinstance(expected, int | float):
        return False
    return found == expected or abs(found - expected) <= tolerance + RELATIVE * abs(expected)
