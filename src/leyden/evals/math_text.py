"""Rewrite spellings of mathematical answers that math-verify cannot read."""

import re
import unicodedata

from leyden.evals.math_numbers import THOUSANDS, respell_fractions, respell_numbers
from leyden.evals.math_sets import respell_sets

INSIDE = r"\{((?:[^{}]|\{[^{}]*\})*)\}"  # a group in braces, one level deep
SYMBOLS = {
    "\u00b0": r"^\circ", "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u00f7": "/",
    "\u2212": "-", "\u2013": "-", "\u03c0": r"\pi ", "\u221e": r"\infty ", "\u2264": r"\le ",
    "\u2265": r"\ge ", "\u2260": r"\ne ", "\u00b1": r"\pm ", "\u222a": r"\cup ",
    "\u2208": r"\in ", "\u2205": r"\emptyset ", "\u03b8": r"\theta ", "\u2044": "/",
    r"\varnothing": r"\emptyset", r"^{\prime}": "'", r"^\prime": "'",
}  # fmt: skip
SUPERSCRIPTS = {ord(c): str(i) for i, c in enumerate("\u2070\u00b9\u00b2\u00b3\u2074\u2075")}
SUPERSCRIPTS |= {ord(c): str(i) for i, c in enumerate("\u2076\u2077\u2078\u2079", start=6)}
REWRITTEN = [
    (rf"\\(?:boldsymbol|bm|mathbf|textbf|emph|underline)\s*{INSIDE}", r"\1"),
    (
        r"\\operatorname\*?\s*\{(arc(?:sin|cos|tan)|sin|cos|tan|log|ln|exp|max|min|gcd|lcm)\}",
        r"\\\1",
    ),
    (r"\\(?:mathrm|text|rm|mathit)\s*\{\s*([ei])\s*\}", r"\1"),  # upright e and i
    (r"\\degrees?(?![a-zA-Z])", r"^\\circ"),
    (r"(?:\\[ ,;:!]|\\\\|~)+\s*$", ""),
    (
        r"^\s*[A-Za-z]_\{?\\(?:max|min|(?:text|mathrm)\s*\{[^{}]*\})\s*\}?\s*=(?!=)",
        "",
    ),  # S_{\max} =
    (rf"\\textcolor\s*\{{[^{{}}]*\}}\s*{INSIDE}", r"\1"),
    (r"\\color\s*\{[^{}]*\}", ""),
    (r"(?i)^\s*(?:\\text\{)?\s*(?:the )?(?:final )?answer(?: is)?\s*:?\s*\}?\s*:?\s*", ""),
    ("\u221a(\\d+|\\w|\\([^()]*\\)|\\{[^{}]*\\})", r"\\sqrt{\1}"),
    (r"\b(?:np|numpy|math)\.(?=[a-z])", r"\\"),
    (r"(?<![\w.])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d+)(?![\w.])", r"\1 \\times 10^{\2}"),
    (r"(?<=\d)\.(?!\d)", ""),
    (r"(?<![A-Za-z\\])E(?=_)", r"\\Lambda"),  # with an index it is a name, not Euler's number
    (r"(?<=[\d ])\\mu\s*(?=\\(?:text|mathrm|mbox)\s*\{)", ""),  # micro, before a unit
]


def respell(answer: str) -> str:
    """Rewrite symbols, 1.5e-3, np.arcsin, colours and the like as plain LaTeX."""
    text = re.sub(
        "([\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+)",
        lambda match: f"^{{{match[1].translate(SUPERSCRIPTS)}}}",
        respell_fractions(answer),
    )
    text = unicodedata.normalize("NFKC", text)
    for symbol, latex in SYMBOLS.items():
        text = text.replace(symbol, latex)
    for pattern, latex in REWRITTEN:
        text = re.sub(pattern, latex, text)
    return respell_sets(respell_numbers(text))


def both_signs(answer: str) -> str:
    """``a \\pm b`` as its two values."""
    if "\\pm" not in answer:
        return answer
    first = answer.replace("\\pm", "+").replace("\\mp", "-")
    second = answer.replace("\\pm", "-").replace("\\mp", "+")
    return f"{first}, {second}"


def plain(answer: str) -> str:
    """The answer without marks that never change its meaning: spacing, dollars, \\text, \\left."""
    text = respell(answer).strip().rstrip(".").strip("$ ")
    text = re.sub(r"\\(?:text|textbf|mathrm|mbox|textit)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\(?:left|right|displaystyle|limits)(?![a-zA-Z])", "", text)
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\$", "")
    text = re.sub(r",\\!\s*|\{,\}", ",", text)
    if not text.lstrip("\\ ").startswith(("(", "[", "{")):  # (1,200) is a pair
        text = THOUSANDS.sub(lambda match: match[1].replace(",", ""), text)
    text = re.sub(r"_\{(\w)\}", r"_\1", text)
    text = re.sub(r"\\[!,;: ]|\\q?quad|~", "", text)
    text = re.sub(r"\s+", "", text)
    return text.lower() if re.fullmatch(r"[A-Za-z]{2,}", text) else text


def in_base(answer: str) -> int | None:
    """The value of digits with a base as subscript, such as ``40_6`` or ``2A_{12}``; else None."""
    match = re.fullmatch(r"(-?[0-9A-Za-z]+)_\{?(\d{1,2})\}?", plain(answer))
    if match is None or not 2 <= int(match[2]) <= 36:
        return None
    try:
        return int(match[1], int(match[2]))
    except ValueError:
        return None
