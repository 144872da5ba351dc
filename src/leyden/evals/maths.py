"""Grade mathematics by math-verify, and by equal text where it cannot read an answer.

The final answer is the content of the last ``\\boxed{...}``. Without a box it is the expression
that math-verify finds near words like "the answer is", or the last one. Source: math-verify 0.9
(github.com/huggingface/Math-Verify).
"""

import logging
import re
import sys
from collections.abc import Callable

from leyden.evals.boxes import boxes_joined_by_or, last_boxed, last_boxes
from leyden.evals.math_answer import chosen, hedge, option, said_option, unboxed
from leyden.evals.math_exact import differ, number, same_float
from leyden.evals.math_text import both_signs, in_base, plain, respell
from leyden.evals.verdict import RIGHT, UNPARSED, WRONG, Verdict, final_part

WORKER_MEMORY = 6 * 2**30  # bytes of address space: an absurd power ends as a MemoryError
INNER_SECONDS = 5  # for one parse or one comparison
SHOWN = 200  # characters
PERCENT = re.compile(r"%|percent")
OPERATORS = {
    r"\log", r"\lg", r"\sum", r"\prod", r"\int", r"\lim", r"\max", r"\min",
    r"\sup", r"\inf", r"\gcd",
}  # fmt: skip


def prepare_worker() -> None:
    """Limit the memory of a grading process and silence its libraries. Called once in each."""
    if sys.platform != "win32":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (WORKER_MEMORY, hard))
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)


def grade_math(gold: str, completion: str, question: str = "") -> Verdict:
    """Compare the final answer of ``completion`` with ``gold``, which may be plain or LaTeX.

    Where the ``question`` speaks of percent, 25% is 25.
    """
    text = final_part(completion)
    boxed = last_boxed(text)
    if not (text if boxed is None else boxed).strip():
        return Verdict(UNPARSED, why="no answer: the text is empty")
    percent = PERCENT.search(gold + question) is not None
    if boxed is None:
        return _judge_unboxed(gold, text, percent)
    several = last_boxes(text)
    if len(several) > 1 and "," in gold:  # "$\\boxed{1}$ and $\\boxed{-2}$" is one answer
        verdict = _judge_boxed(gold, ", ".join(several), percent)
        if verdict.outcome == RIGHT:
            return verdict
    if alternatives := boxes_joined_by_or(text):
        return _judge_boxed(gold, r" \text{ or } ".join(alternatives), percent)
    return _judge_boxed(gold, boxed, percent)


def _judge_unboxed(gold: str, text: str, percent: bool) -> Verdict:
    return _guarded(lambda: _compare_unboxed(gold, text, percent), text, "")


def _judge_boxed(gold: str, boxed: str, percent: bool) -> Verdict:
    return _guarded(lambda: _compare_boxed(gold, boxed, percent), boxed, boxed)


def _guarded(compare: Callable[[], Verdict], shown: str, boxed: str) -> Verdict:
    """Turn whatever a comparison raises, sympy above all, into a verdict."""
    from math_verify.errors import TimeoutException

    try:
        return compare()
    except (Exception, TimeoutException) as error:
        why = f"{_short(shown)} could not be compared: {type(error).__name__}: "
        return Verdict(WRONG if boxed else UNPARSED, plain(boxed), why + str(error)[:100])


def _compare_unboxed(gold: str, text: str, percent: bool) -> Verdict:
    if (letter := option(plain(gold))) and (said := said_option(text)):
        return _verdict(said == letter, said, said, gold)
    return _compare(gold, unboxed(text), "", percent)


def _compare_boxed(gold: str, boxed: str, percent: bool) -> Verdict:
    name, wanted = plain(boxed), plain(gold)
    if name == wanted:
        return Verdict(RIGHT, wanted, f"{_short(boxed)} is {_short(gold)}, letter for letter")
    if (letter := option(wanted)) and (picked := chosen(name)):
        return _verdict(picked == letter, picked, boxed, gold)
    value, expected = in_base(boxed), in_base(gold)
    if value is not None and expected is None and re.fullmatch(r"-?\d+", wanted):
        expected = int(wanted)
    if value is not None and expected is not None:  # math-verify reads the digits alone
        return _verdict(value == expected, name, boxed, gold)
    answer = both_signs(respell(boxed))
    if why := hedge(answer, both_signs(respell(gold))):
        return Verdict(WRONG, name, f"{_short(boxed)} is not {_short(gold)}: {why}")
    if "=" in answer and "=" not in gold and _contradicts(answer):
        return Verdict(WRONG, name, f"{_short(boxed)} is not {_short(gold)}: its sides differ")
    return _compare(gold, f"\\boxed{{{answer}}}", boxed, percent)


def _contradicts(answer: str) -> bool:
    """Whether sides of an equation are numbers that differ, as in ``274 = 277``."""
    read = [read_answer(f"\\boxed{{{side}}}") for side in answer.split("=")]
    values = [number(one[0]) for one in read if one]
    known = [value for value in values if value is not None]
    return any(abs(value - known[0]) > 1e-6 * max(1.0, abs(value)) for value in known)


def _compare(gold: str, text: str, boxed: str, percent: bool) -> Verdict:
    """Compare without units, then with them: the m of ``\\frac{37}{4} m`` is meters or a letter.

    ``text`` is the whole completion, or its one box.
    """
    shown = name = ""
    for units in (True, False):
        parsed = read_answer(text, units=units)
        if not parsed:
            continue
        shown, name = boxed or str(parsed[0]), plain(boxed) if boxed else str(parsed[-1])
        expected = read_answer(f"\\boxed{{{both_signs(respell(gold))}}}", units=units)
        if expected and equal(expected, parsed, percent=percent):
            return _verdict(True, name, shown, gold)
    if shown:
        return _verdict(False, name, shown, gold)
    if boxed:
        return Verdict(WRONG, plain(boxed), f"{_short(boxed)} is no expression")
    return Verdict(UNPARSED, why="no answer: nothing boxed, and no expression found")


def _verdict(right: bool, answer: str, shown: str, gold: str) -> Verdict:
    why = f"{_short(shown)} {'is' if right else 'is not'} {_short(gold)}"
    return Verdict(RIGHT if right else WRONG, answer, why)


def equal(expected: list, parsed: list, *, percent: bool = True) -> bool:
    """Whether math-verify calls two readings equal, and ``math_exact`` does not object.

    Unless it is about ``percent``, 25% is a quarter and not 25.
    """
    from math_verify import verify

    first, second = expected[0], parsed[0]
    if same_float(first, second):
        return True
    return verify(
        expected,
        parsed,
        allow_set_relation_comp=True,  # [-2, 7] is -2 <= x <= 7
        timeout_seconds=INNER_SECONDS,
        raise_on_error=True,
    ) and not differ(first, second, percent=percent or not _is_percent(parsed))


def _is_percent(parsed: list) -> bool:
    return PERCENT.search(str(parsed[-1])) is not None or "(1/100)" in str(parsed[0])


def read_answer(text: str, *, units: bool = True) -> list:
    """Expressions that math-verify reads in a text, then the text of them; empty where none."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    reading = NormalizationConfig(
        basic_latex=True,
        units=units,
        malformed_operators=True,
        nits=True,
        boxed="all",
        equations=False,
    )
    latex = LatexExtractionConfig(boxed_match_priority=0, normalization_config=reading)
    parsed = parse(
        text,
        extraction_config=(latex, ExprExtractionConfig()),
        parsing_timeout=INNER_SECONDS,
        raise_on_error=True,
    )
    if parsed and _has_index(str(parsed[-1])) and number(parsed[0]) is not None:
        return []  # it read a number alone from a name with an index
    return parsed


def _has_index(text: str) -> bool:
    """Whether a name has an index, which an operator such as ``\\log_2`` has not."""
    names = re.findall(r"(\\[A-Za-z]+|[A-Za-z])\s*_", text.replace(r"\limits", ""))
    return any(name not in OPERATORS for name in names)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
