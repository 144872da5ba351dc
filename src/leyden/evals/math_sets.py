"""Conditions on one variable, such as ``x < 1 or x >= 2``, rewritten as unions of intervals."""

import re

RELATIONS = {
    "<": "<", ">": ">", r"\lt": "<", r"\gt": ">", r"\le": "<=", r"\leq": "<=", r"\leqslant": "<=",
    r"\ge": ">=", r"\geq": ">=", r"\geqslant": ">=",
}  # fmt: skip
MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
RELATION = r"(<|>|\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![A-Za-z]))"
VARIABLE = r"(\\theta|[A-Za-z])"
OR = re.compile(r"\s*,?\s*(?:\\(?:text|mathrm|mbox)\s*\{\s*or\s*\}|\\lor|\\vee|\bor\b)\s*")
AND = re.compile(r"\s*(?:\\(?:text|mathrm|mbox)\s*\{\s*and\s*\}|\\land|\\wedge|\band\b)\s*")
BUILDER = re.compile(
    rf"\\?\{{\s*{VARIABLE}\s*(?:\\in\s*\\mathbb\s*\{{?R\}}?)?\s*(?:\\mid|\\vert|:|\|)(.*?)\\?\}}"
)
REALS = re.compile(
    r"\s*(?:\\text\{)?\s*(?:all (?:the )?real numbers|all reals|\\mathbb\s*\{?R\}?)\s*\}?\s*"
)
EVERYTHING = r"(-\infty,\infty)"
EULER = re.compile(
    r"(?:(?<=[<>])|(?<=[eq])|^)\s*e\s*(?=<|>|\\(?:le|ge|lt|gt|in)(?![A-Za-z])|\\[lg]eq)"
)


def respell_sets(answer: str) -> str:
    """A condition with several parts, or in braces, as intervals; other answers as they are."""
    if REALS.fullmatch(answer):
        return EVERYTHING
    answer = EULER.sub(" x ", answer)  # between relations e is a variable, not Euler's number
    builder = BUILDER.fullmatch(answer.strip())
    condition = builder[2] if builder else answer
    parts = [part for part in OR.split(condition) if part.strip()]
    if len(parts) == 1:
        parts = _listed(condition)
    single = len(parts) < 2 and not builder and not AND.search(condition)
    if single and not re.search(r"\\neq?(?![A-Za-z])", condition):
        return answer
    intervals = [_interval(part.strip().strip("$").strip()) for part in parts]
    variables = {variable for variable, _ in intervals if variable}
    if not all(text for _, text in intervals) or len(variables) > 1:
        return answer
    return r"\cup ".join(text for _, text in intervals)


def _listed(condition: str) -> list[str]:
    """``x < 1, x > 2`` as two conditions; anything else as one."""
    parts = condition.split(",")
    return parts if all(re.search(RELATION, part) for part in parts) else [condition]


def _interval(part: str) -> tuple[str, str]:
    """(variable, interval) of one condition; ("", "") where it is none."""
    both = [_half(half.strip()) for half in AND.split(part)]
    if len(both) == 2 and all(both):
        return _intersection(both)
    chain = re.fullmatch(rf"(.+?)\s*{RELATION}\s*{VARIABLE}\s*{RELATION}\s*(.+)", part)
    if chain and _is_bound(chain[1]) and _is_bound(chain[5]):
        first, second = RELATIONS[chain[2]], RELATIONS[chain[4]]
        if first[0] == second[0] == "<":
            return chain[3], _between(first, chain[1], second, chain[5])
        if first[0] == second[0] == ">":
            return chain[3], _between(second, chain[5], first, chain[1])
        return "", ""
    if half := _half(part):
        variable, relation, bound = half
        low = relation[0] == ">"
        closed = relation.endswith("=")
        if low:
            return variable, f"{'[' if closed else '('}{bound},\\infty)"
        return variable, f"(-\\infty,{bound}{']' if closed else ')'}"
    return _other(part)


def _half(part: str) -> tuple[str, str, str] | None:
    """(variable, relation, bound) of ``x < 3`` or ``3 > x``."""
    if match := re.fullmatch(rf"{VARIABLE}\s*{RELATION}\s*(.+)", part):
        variable, relation, bound = match.groups()
        relation = RELATIONS[relation]
    elif match := re.fullmatch(rf"(.+?)\s*{RELATION}\s*{VARIABLE}", part):
        bound, relation, variable = match.groups()
        relation = MIRRORED[RELATIONS[relation]]
    else:
        return None
    return (variable, relation, bound) if _is_bound(bound) else None


def _intersection(both: list) -> tuple[str, str]:
    """``x > 1 and x < 5``."""
    (one, first, low), (other, second, high) = both
    if one != other or {first[0], second[0]} != {"<", ">"}:
        return "", ""
    if first[0] == "<":
        (first, low), (second, high) = (second, high), (first, low)
    return one, _between(MIRRORED[first], low, second, high)


def _between(first: str, low: str, second: str, high: str) -> str:
    opening = "[" if first.endswith("=") else "("
    return f"{opening}{low},{high}{']' if second.endswith('=') else ')'}"


def _other(part: str) -> tuple[str, str]:
    """``x \\ne 2``, ``x = 2`` and ``x \\in (2, \\infty)``."""
    if match := re.fullmatch(rf"{VARIABLE}\s*\\neq?\s*([^,]+)", part):
        return match[1], rf"(-\infty,{match[2]})\cup ({match[2]},\infty)"
    if (match := re.fullmatch(rf"{VARIABLE}\s*=\s*(.+)", part)) and _is_bound(match[2]):
        return match[1], rf"\{{{match[2]}\}}"
    if match := re.fullmatch(rf"{VARIABLE}\s*\\in\s*([(\[].+[)\]])", part):
        return match[1], match[2]
    if re.fullmatch(r"[(\[].*\\infty.*[)\]]", part):
        return "", part
    return "", ""


def _is_bound(text: str) -> bool:
    return not re.search(rf"{RELATION}|[,=]|\\in(?![A-Za-z])", text)
