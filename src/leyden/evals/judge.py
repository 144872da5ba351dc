"""Compare what a program gave with what was expected: output as text, results as values.

A benchmark may allow more than equality: a tolerance, any order, any case, or a checker of its own.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

MOST_LONGER = 20  # an output of more than this many times the expected length is not read
MOST_MATCHED = 1000  # items in any order that are matched one by one
WHOLE = re.compile(r"[+-]?[0-9]+")
FLOATS = 1e-9  # two ways of computing a decimal differ by less
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
Checker = Callable[[Any, Any, Any], Any]
"""(input or arguments, output or result, expected) -> right or not, perhaps with a reason."""


@dataclass(frozen=True)
class Judge:
    """The rules of a benchmark. Without any, numbers are compared by value and the rest exactly."""

    float_tolerance: float | None = None
    any_order: bool = False
    ignore_case: bool = False
    checker: Checker | None = None

    def accepts_output(self, given: str, output: str, expected: str) -> bool:
        """Whether a program's standard output is right."""
        if self.checker is not None:
            return is_right(self.checker(given, output, expected))
        return same_output(output, expected, self)

    def accepts_value(self, arguments: Any, value: Any, expected: Any) -> bool:
        """Whether the result of a call is right. Both are JSON values."""
        if self.checker is not None:
            return is_right(self.checker(arguments, value, expected))
        return same_value(value, expected, self)


EXACT = Judge()


def is_right(said: Any) -> bool:
    """The verdict of a user's function, which may come with a reason."""
    return bool(said[0]) if isinstance(said, tuple) and said else bool(said)


def same_value(value: Any, expected: Any, judge: Judge = EXACT) -> bool:
    """Whether two JSON values are equal, decimals to a relative difference of FLOATS, or to the
    judge's tolerance."""
    if isinstance(expected, list):
        if not isinstance(value, list) or len(value) != len(expected):
            return False
        return _same_items(value, expected, judge)
    if isinstance(expected, dict):
        same_keys = isinstance(value, dict) and value.keys() == expected.keys()
        return same_keys and all(same_value(value[key], expected[key], judge) for key in expected)
    if isinstance(expected, str) and isinstance(value, str) and judge.ignore_case:
        return value.casefold() == expected.casefold()
    numbers = type(value) in (int, float) and type(expected) in (int, float)
    tolerant = isinstance(expected, float) or (judge.float_tolerance and isinstance(value, float))
    if numbers and tolerant:
        return _close(value, expected, judge.float_tolerance or FLOATS)
    return value == expected


def _same_items(values: list[Any], expected: list[Any], judge: Judge) -> bool:
    if judge.any_order:
        return _matched(values, expected, lambda v, e: same_value(v, e, judge))
    return all(same_value(v, e, judge) for v, e in zip(values, expected, strict=True))


def _matched(ours: list[Any], theirs: list[Any], same: Callable[[Any, Any], bool]) -> bool:
    """Whether each of ``theirs`` has one of ``ours`` of its own; of very many, in sorted order."""
    if len(ours) != len(theirs):
        return False
    if len(ours) > MOST_MATCHED:
        pairs = zip(sorted(ours, key=repr), sorted(theirs, key=repr), strict=True)
        return all(same(a, b) for a, b in pairs)
    left = list(ours)
    for other in theirs:
        found = next((i for i, one in enumerate(left) if same(one, other)), None)
        if found is None:
            return False
        del left[found]
    return True


def _close(value: float, expected: float, tolerance: float) -> bool:
    try:
        return math.isclose(value, expected, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an int beyond the largest float
        return False


def same_output(output: str, expected: str, judge: Judge = EXACT) -> bool:
    """Whether the lines are equal up to space at their ends, or their words with numbers by value.

    Source: LiveCodeBench, lcb_runner/evaluation/testing_util.py, which compares decimals exactly.
    """
    if len(output) > MOST_LONGER * (len(expected) + 1000):
        return False
    if judge.ignore_case:
        output, expected = output.casefold(), expected.casefold()
    ours = [line.strip() for line in output.strip().splitlines()]
    theirs = [line.strip() for line in expected.strip().splitlines()]
    if ours == theirs:
        return True
    if judge.any_order:
        return _matched(ours, theirs, lambda a, b: _same_line(a, b, judge))
    pairs = zip(ours, theirs, strict=False)
    return len(ours) == len(theirs) and all(_same_line(a, b, judge) for a, b in pairs)


def _same_line(line: str, expected: str, judge: Judge) -> bool:
    ours, theirs = line.split(), expected.split()
    if judge.any_order:
        return _matched(ours, theirs, lambda a, b: _same_word(a, b, judge))
    pairs = zip(ours, theirs, strict=False)
    return len(ours) == len(theirs) and all(_same_word(a, b, judge) for a, b in pairs)


def _same_word(word: str, expected: str, judge: Judge) -> bool:
    if word == expected:
        return True
    if not NUMBER.fullmatch(word) or not NUMBER.fullmatch(expected):
        return False
    whole = WHOLE.fullmatch(word) and WHOLE.fullmatch(expected)  # whole numbers are exact
    if judge.float_tolerance and not whole and math.isfinite(float(word)):
        return _close(float(word), float(expected), judge.float_tolerance)
    return Decimal(word) == Decimal(expected)
