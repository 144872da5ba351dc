"""Numbers as people write them, rewritten as math-verify reads them."""

import re
import unicodedata
from fractions import Fraction

# Of at most 99 digits, since Python refuses to read integers of thousands.
VULGAR = re.compile("(\\d*)\\s*([\u00bc-\u00be\u2150-\u215e])")
MIXED = re.compile(
    r"(?<![\w.,/^{}\\])(\d{1,99})\s+(?:and\s+)?(\d{1,99})\s*/\s*(\d{1,99})(?!\w|[/^]|\.\d)"
)
BAR = r"\\(?:overline|bar|dot)\s*"
REPEATING = [
    re.compile(
        rf"(?<![\w.])(\d{{0,99}})\.(\d{{0,99}}){BAR}\{{?(\d{{1,99}})\}}?(?!\d)"
    ),  # 0.1\overline{6}
    re.compile(r"(?<![\w.])(\d{1,99})\.(\d{0,99})\((\d{1,99})\)(?!\d)"),  # 0.1(6)
    re.compile(r"(?<![\w.])(\d{0,99})\.(\d{0,99}?)(\d{1,6}?)\3{2,}(?:\.\.\.|\u2026|\\[lc]?dots)"),
]
THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+)(?![\d,])")
DEGREES = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])(?:\s*\^\s*\{?-?\d+\}?)?\s*(?:\\left)?[({]?\s*)"
    r"(\d+(?:\.\d+)?)\s*\^\s*\{?\\circ\}?"
)


def respell_numbers(text: str) -> str:
    """Mixed numbers, thousands, roots of several digits, and degrees of an angle."""
    text = MIXED.sub(_mixed, text)
    text = re.sub(r"\\sqrt\s*(\d{2,})", r"\\sqrt{\1}", text)  # as prm800k and models mean it
    text = DEGREES.sub(r"\1\\frac{\2\\pi}{180}", text)
    return _without_separators(text)


def respell_fractions(text: str) -> str:
    """One-character fractions, and decimals that repeat. Unicode's normal form of the former would
    make 51/2 of five and a half, and a full stop at the end belongs to the latter."""
    text = VULGAR.sub(_vulgar, text)
    for pattern in REPEATING:
        text = pattern.sub(_repeating, text)
    return text


def _vulgar(match: re.Match) -> str:
    value = Fraction(unicodedata.numeric(match[2])).limit_denominator(10)
    return rf"{match[1]}\frac{{{value.numerator}}}{{{value.denominator}}}"


def _mixed(match: re.Match) -> str:
    """``2 1/3``; the fraction of a mixed number is below one, or it is a product."""
    whole, above, below = match.groups()
    if int(above) >= int(below):
        return match[0]
    return rf"{whole}\frac{{{above}}}{{{below}}}"


def _repeating(match: re.Match) -> str:
    """The fraction of a decimal with whole part I, digits A, and digits B for ever:
    (IAB - IA) / (10^|B| - 1) / 10^|A|."""
    whole, first, again = match[1] or "0", match[2], match[3]
    value = Fraction(
        int(whole + first + again) - int(whole + first), (10 ** len(again) - 1) * 10 ** len(first)
    )
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _without_separators(text: str) -> str:
    """Drop the commas of thousands, unless the text may be a list of numbers."""
    joined = THOUSANDS.sub(lambda match: match[1].replace(",", ""), text)
    listed = "," in joined or text.lstrip("\\ ").startswith(("(", "[", "{"))
    return text if listed else joined
