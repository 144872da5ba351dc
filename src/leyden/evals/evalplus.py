"""Compare a program's result with the reference solution's, by EvalPlus's rules for its files.

Source: EvalPlus (arXiv 2305.01210), evalplus/eval: exact equality, but floats within a tolerance;
a few problems have rules of their own, listed here by name.
"""

import math
from typing import Any

RELATIVE = 1e-7
FLOATS = 1e-6  # absolute, where the reference gives floats and the problem sets no tolerance
AS_SETS = {
    "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
    "intersection_array", "find_dissimilar", "Diff",
}  # fmt: skip  # MBPP problems whose statement leaves the order open
ONLY_WHETHER = {"check_str", "text_match_three", "text_starta_endb"}  # a match object or True
ROOT = "find_zero"  # HumanEval/32: any root of the polynomial


def same_result(result: Any, expected: Any, tests: dict[str, Any], arguments: list[Any]) -> bool:
    """Whether two results are the same. ``tests`` names the function and its ``atol``."""
    name, atol = tests["function"], tests["atol"]
    try:
        if tests["task"].startswith("Mbpp"):
            if name in AS_SETS:
                return set(result) == set(expected)
            if name in ONLY_WHETHER:
                return (result is not None and result is not False) == (
                    expected is not None and expected is not False
                )
        elif name == ROOT:
            return abs(_polynomial(arguments[0], result)) <= (atol or FLOATS)
        if result == expected:
            return True
        tolerance = atol or (FLOATS if _floats(expected) else 0)
        return bool(tolerance) and _close(result, expected, tolerance)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return False


def _polynomial(coefficients: list[Any], x: Any) -> float:
    return sum(c * math.pow(x, i) for i, c in enumerate(coefficients))


def _floats(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _close(result: Any, expected: Any, tolerance: float) -> bool:
    """As numpy.allclose of the two, element by element."""
    if isinstance(expected, list | tuple):
        if type(result) is not type(expected) or len(result) != len(expected):
            return False
        return all(_close(f, e, tolerance) for f, e in zip(result, expected, strict=True))
    if not isinstance(result, int | float) or not isinstance(expected, int | float):
        return False
    return result == expected or abs(result - expected) <= tolerance + RELATIVE * abs(expected)
