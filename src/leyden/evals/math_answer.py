"""Find the final answer of a completion, and refuse answers that only contain the right one."""

import re

from leyden.evals.math_numbers import MIXED, VULGAR, respell_fractions, respell_numbers

EMPHASIS = re.compile(
    r"(\*\*|`)(?=\S)((?:(?!\1)[^\n])+?)(?<=\S)\1"
    r"|(?<![\w*])\*(?=[^\s*])([^*\n]+?)(?<=[^\s*])\*(?![\w*])"
)
FUNCTIONS = {"sqrt", "sin", "cos", "tan", "log", "ln", "pi", "exp", "frac", "dfrac", "infty"}
OPTION = re.compile(r"\(?\s*([A-J])\s*\)?\.?")
LETTER_FIRST = re.compile(r"(?:\(([A-J])\)|([A-J])[.:)])(?!\s*[-+*/^=])(.*)", re.DOTALL)
SAID = re.compile(
    r"(?i:answer|option|choice)(?i:\s+(?:is|would\s+be))?\s*:?\s*\$?\\?\(?(?:\\text\{)?\(?([A-J])(?![\w'])"
)
UNIT = r"\\(?:text|mathrm|mbox|textrm)\s*\{\s*~?[^{}]*[A-Za-z][^{}]*\}"
TWO_UNITS = re.compile(rf"\d\s*(?:\\[ ,;!~]|~)*\s*({UNIT}|[A-Za-z]{{2,}}\.?)\s*,?\s*(?:and\s+)?\d")
JOINING = re.compile(r"(?i)\s*(?:or|and|to|by|through)\s*")
RADIANS = {"rad", "rads", "radian", "radians"}
RELATION_FIRST = re.compile(r"\s*(?:<|>|\\(?:leqslant|geqslant|leq?|geq?|neq?|lt|gt)(?![A-Za-z]))")


def unboxed(text: str) -> str:
    """A completion without a box, its Markdown marks removed; its last number, where it is written
    as one expression, is put between dollars."""
    matches = list(EMPHASIS.finditer(text))
    for match in reversed(matches):
        content = (match[2] or match[3]).strip()
        last = match is matches[-1] and not re.search(r"[\d$]|\\\(", text[match.end() :])
        shown = content
        if last and _is_expression(content):
            shown = f"${respell_numbers(respell_fractions(content.rstrip('.')))}$"
        text = text[: match.start()] + shown + text[match.end() :]
    mixed = [*MIXED.finditer(text), *VULGAR.finditer(text)]
    if mixed and not re.search(r"[\d$]", text[mixed[-1].end() :]) and "$" not in text:
        start, end = mixed[-1].span()
        shown = respell_numbers(respell_fractions(text[start:end]))
        text = f"{text[:start]}${shown}${text[end:]}"
    return text


def _is_expression(content: str) -> bool:
    """Whether emphasised text is mathematics, and neither words nor the number of a step."""
    words = set(re.findall(r"[A-Za-z]{2,}", content))
    if words - FUNCTIONS or "$" in content or re.fullmatch(r"\d+[.):]", content):
        return False
    return bool(re.search(r"\d|[A-Za-z]\s*[-+*/^=]", content))


def option(gold: str) -> str:
    """The letter that ``gold`` is, where the question offered options; else ""."""
    match = OPTION.fullmatch(gold)
    return match[1] if match else ""


def chosen(answer: str) -> str:
    """The option that an answer begins with, as ``(C) 12`` and ``C. 12`` do; else ""."""
    match = LETTER_FIRST.fullmatch(answer)
    return (match[1] or match[2]) if match else option(answer)


def said_option(text: str) -> str:
    """The option that a text without a box calls its answer last; else ""."""
    letters = SAID.findall(text)
    return letters[-1] if letters else ""


def hedge(answer: str, gold: str) -> str:
    """Why an answer cannot be the single value ``gold``, whatever number is in it; else ""."""
    if RELATION_FIRST.match(answer) and not RELATION_FIRST.match(gold):
        return "it is a bound and no value"
    two = TWO_UNITS.search(answer)
    if two and not _joins(two[1]) and not TWO_UNITS.search(gold) and "," not in gold:
        return "it is a sum of two quantities"
    if _in_radians(answer) != _in_radians(gold) and "circ" in answer + gold:
        return "one is in radians and one in degrees"
    return ""


def _joins(unit: str) -> bool:
    return JOINING.fullmatch(re.sub(r"\\[a-z]+\s*\{|\}|~", "", unit)) is not None


def _in_radians(answer: str) -> bool:
    return not RADIANS.isdisjoint(re.findall(r"[A-Za-z]+", answer))
