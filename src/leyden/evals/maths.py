"""Is a mathematical answer right? math-verify, and equal text where it cannot read an answer.

The answer is what the last ``\\boxed{...}`` holds; without one, what math-verify finds near words
like "the answer is" or last. Sources: math-verify 0.9 (github.com/huggingface/Math-Verify).
"""

import logging
import re
import resource
import unicodedata

from leyden.data.problems import last_boxed
from leyden.evals.verdict import RIGHT, UNPARSED, WRONG, Verdict, final_part

WORKER_MEMORY = 6 * 2**30  # bytes of address space: an absurd power ends as a MemoryError
INNER_SECONDS = 5  # for one parse or one comparison
SHOWN = 200  # characters


def prepare_worker() -> None:
    """Once per grading process."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (WORKER_MEMORY, hard))
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)


def grade_math(gold: str, completion: str) -> Verdict:
    """Compare the final answer of ``completion`` with ``gold``, which may be plain or LaTeX."""
    text = final_part(completion)
    boxed = last_boxed(text)
    said = text if boxed is None else boxed
    if not said.strip():
        return Verdict(UNPARSED, why="no answer: the text is empty")
    if boxed is not None and plain(boxed) == plain(gold):
        return Verdict(RIGHT, plain(gold), f"{_short(boxed)} is {_short(gold)}, letter for letter")
    from math_verify.errors import TimeoutException

    try:
        return _compare(gold, text, boxed)
    except (Exception, TimeoutException) as error:  # sympy raises whatever it likes
        why = f"{_short(said)} could not be compared: {type(error).__name__}: {str(error)[:100]}"
        return Verdict(WRONG if boxed else UNPARSED, plain(boxed or ""), why)


def _compare(gold: str, text: str, boxed: str | None) -> Verdict:
    from math_verify import verify

    found = read_answer(text) if boxed is None else read_answer(f"\\boxed{{{boxed}}}")
    if not found and boxed is None:
        return Verdict(UNPARSED, why="no answer: nothing boxed, and no expression found")
    if not found:
        return Verdict(WRONG, plain(boxed or ""), f"{_short(boxed or '')} is no expression")
    name = plain(boxed) if boxed is not None else str(found[-1])
    based, wanted_based = in_base(boxed or ""), in_base(gold)
    if based is not None and wanted_based is not None:  # math-verify reads the digits alone
        same = based == wanted_based
        why = f"{_short(boxed or '')} {'is' if same else 'is not'} {_short(gold)}, by value"
        return Verdict(RIGHT if same else WRONG, name, why)
    wanted = read_answer(f"\\boxed{{{gold}}}") or read_answer(gold)
    right = bool(wanted) and verify(
        wanted,
        found,
        allow_set_relation_comp=True,  # [-2, 7] is -2 <= x <= 7
        timeout_seconds=INNER_SECONDS,
        raise_on_error=True,
    )
    relation = "is" if right else "is not"
    return Verdict(
        RIGHT if right else WRONG,
        name,
        f"{_short(boxed if boxed is not None else str(found[0]))} {relation} {_short(gold)}",
    )


def read_answer(text: str) -> list:
    """math-verify's reading: expressions, then the text it read them from; empty if none."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    return parse(
        text,
        extraction_config=(LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()),
        parsing_timeout=INNER_SECONDS,
        raise_on_error=True,
    )


def in_base(answer: str) -> int | None:
    """The value of digits with a base as subscript, such as ``40_6`` or ``2A_{12}``; else None."""
    match = re.fullmatch(r"(-?[0-9A-Za-z]+)_\{?(?:\\text\{)?(\d+)\}*", plain(answer))
    if match is None or not 2 <= int(match[2]) <= 36:
        return None
    try:
        return int(match[1], int(match[2]))
    except ValueError:
        return None


def plain(answer: str) -> str:
    """An answer without what never changes its meaning: spacing, dollars, \\text, \\left."""
    text = unicodedata.normalize("NFKC", answer).strip().rstrip(".").strip("$ ")
    text = re.sub(r"\\(?:text|textbf|mathrm|mbox|textit|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(
        r"\\(?:left|right|displaystyle|limits)(?![a-zA-Z])|\\[!,;: ]|\\q?quad|~", "", text
    )
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\$", "")
    text = re.sub(r"\s+", "", text)
    text = re.sub(r"(?<=\d)(?:\{,\}|,)(?=\d{3}(?!\d))", "", text)
    return text.lower() if re.fullmatch(r"[A-Za-z]{2,}", text) else text


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
