"""Compare what math-verify read more closely than it does: it rounds to six decimals."""

import math
from itertools import zip_longest
from typing import Any

SMALL, SMALL_TOLERANCE = 0.01, 1e-3  # below the first, decimals are compared relatively
FLOAT_TOLERANCE = 1e-9  # of two decimals, for the rounding of binary numbers
DIGITS = 60  # to which exact numbers must agree


def differ(first: Any, second: Any, *, percent: bool = True) -> bool:
    """Whether two expressions that are equal to six decimals have a part that differs.

    Only numbers are compared, alone and within pairs, sets, intervals and equations. 25% and 25
    are the same number if ``percent``.
    """
    from sympy import Basic, Eq, Expr, FiniteSet, Interval, Tuple

    first, second = _value(first), _value(second)
    if isinstance(first, Expr) and isinstance(second, Expr):
        return _numbers_differ(first, second, percent)
    if isinstance(first, Eq) and isinstance(second, Eq):
        return first.lhs == second.lhs and differ(first.rhs, second.rhs, percent=percent)
    kinds = (Interval, Tuple, FiniteSet)
    if not isinstance(first, kinds) or type(first) is not type(second):
        return False
    ones, others = list(first.args), list(second.args)
    if isinstance(first, FiniteSet):
        return any(all(differ(one, other, percent=percent) for other in others) for one in ones)
    pairs = list(zip_longest(ones, others))[: 2 if isinstance(first, Interval) else None]
    return any(
        isinstance(one, Basic) and isinstance(other, Basic) and differ(one, other, percent=percent)
        for one, other in pairs
    )


def _value(expression: Any) -> Any:
    """The right side of ``x = 3``, else the expression."""
    from sympy import Eq, Symbol

    named = isinstance(expression, Eq) and isinstance(expression.lhs, Symbol)
    return expression.rhs if named else expression


def _numbers_differ(first: Any, second: Any, percent: bool) -> bool:
    from sympy import Float

    if not (first.is_number and second.is_number):
        return False
    one, other = number(first), number(second)
    if one is None or other is None or math.isinf(one) or math.isinf(other):
        return False
    if not percent and abs(one - other) > 1e-6 * max(1.0, abs(one)):
        return True
    if max(abs(one), abs(other)) < SMALL and abs(one - other) > SMALL_TOLERANCE * max(
        abs(one), abs(other)
    ):
        return True
    if first.has(Float) or second.has(Float) or abs(one - other) > 1e-6 * max(1.0, abs(one)):
        return False  # a decimal is rounded; or math-verify knows of a scale such as percent
    gap = (first - second).evalf(DIGITS, maxn=10 * DIGITS)
    return bool(abs(gap) > 10.0 ** (10 - DIGITS) * max(1.0, abs(one)))


def same_float(first: Any, second: Any) -> bool:
    """Whether two numbers, one of them with decimals, are equal to the rounding of binary numbers:
    8.098 * 10^3 is 8098."""
    from sympy import Expr, Float

    if not (isinstance(first, Expr) and isinstance(second, Expr)):
        return False
    if not (first.is_number and second.is_number and (first.has(Float) or second.has(Float))):
        return False
    one, other = number(first), number(second)
    if one is None or other is None:
        return False
    return abs(one - other) <= FLOAT_TOLERANCE * max(abs(one), abs(other))


def number(value: Any) -> float | None:
    """The value of a real number; None for everything else."""
    from sympy import Expr

    try:
        # doit: math-verify leaves 25% as 25 * (1/100), which float() does not take
        return float(value.doit() if isinstance(value, Expr) else value)
    except (TypeError, ValueError, OverflowError):
        return None
