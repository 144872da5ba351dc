"""Is a mathematical answer right? math-verify, and equal text where it cannot read an answer.

The answer is what the last ``\\boxed{...}`` holds; without one, what math-verify finds near words
like "the answer is" or last. Sources: math-verify 0.9 (github.com/huggingface/Math-Verify).
"""

import logging
import re
import resource

from leyden.evals.math_text import both_signs, in_base, plain, respell
from leyden.evals.problems import last_boxed, last_boxes
from leyden.evals.verdict import RIGHT, UNPARSED, WRONG, Verdict, final_part

WORKER_MEMORY = 6 * 2**30  # bytes of address space: an absurd power ends as a MemoryError
INNER_SECONDS = 5  # for one parse or one comparison
SHOWN = 200  # characters
SMALL, SMALL_TOLERANCE = 0.01, 1e-3  # below the first, numbers are compared relatively


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
    if not (text if boxed is None else boxed).strip():
        return Verdict(UNPARSED, why="no answer: the text is empty")
    if boxed is None:
        return _guarded(gold, text, "")
    several = last_boxes(text)
    if len(several) > 1 and "," in gold:  # "$\\boxed{1}$ and $\\boxed{-2}$" is one answer
        verdict = _judge_boxed(gold, ", ".join(several))
        if verdict.outcome == RIGHT:
            return verdict
    return _judge_boxed(gold, boxed)


def _judge_boxed(gold: str, boxed: str) -> Verdict:
    if plain(boxed) == plain(gold):
        return Verdict(RIGHT, plain(gold), f"{_short(boxed)} is {_short(gold)}, letter for letter")
    based, wanted = in_base(boxed), in_base(gold)
    if based is not None and wanted is not None:  # math-verify reads the digits alone
        return _verdict(based == wanted, plain(boxed), boxed, gold)
    return _guarded(gold, f"\\boxed{{{both_signs(respell(boxed))}}}", boxed)


def _guarded(gold: str, text: str, boxed: str) -> Verdict:
    """``text`` is all that was said, or the one box; sympy raises whatever it likes over it."""
    from math_verify.errors import TimeoutException

    try:
        return _compare(gold, text, boxed)
    except (Exception, TimeoutException) as error:
        why = f"{_short(boxed or text)} could not be compared: {type(error).__name__}: "
        return Verdict(WRONG if boxed else UNPARSED, plain(boxed), why + str(error)[:100])


def _compare(gold: str, text: str, boxed: str) -> Verdict:
    """With units left out, then with them: ``\\frac{37}{4} m`` may be meters or the letter."""
    said = name = ""
    for units in (True, False):
        found = read_answer(text, units=units)
        if not found:
            continue
        said, name = boxed or str(found[0]), plain(boxed) if boxed else str(found[-1])
        wanted = read_answer(f"\\boxed{{{both_signs(respell(gold))}}}", units=units)
        if wanted and equal(wanted, found):
            return _verdict(True, name, said, gold)
    if said:
        return _verdict(False, name, said, gold)
    if boxed:
        return Verdict(WRONG, plain(boxed), f"{_short(boxed)} is no expression")
    return Verdict(UNPARSED, why="no answer: nothing boxed, and no expression found")


def _verdict(right: bool, answer: str, said: str, gold: str) -> Verdict:
    why = f"{_short(said)} {'is' if right else 'is not'} {_short(gold)}"
    return Verdict(RIGHT if right else WRONG, answer, why)


def equal(wanted: list, found: list) -> bool:
    """math-verify's word; but it rounds to six decimals, in which small numbers are all alike."""
    from math_verify import verify

    same = verify(
        wanted,
        found,
        allow_set_relation_comp=True,  # [-2, 7] is -2 <= x <= 7
        timeout_seconds=INNER_SECONDS,
        raise_on_error=True,
    )
    if not same:
        return False
    first, second = _number(wanted[0]), _number(found[0])
    if first is None or second is None or max(abs(first), abs(second)) >= SMALL:
        return True
    return abs(first - second) <= SMALL_TOLERANCE * max(abs(first), abs(second))


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None


def read_answer(text: str, *, units: bool = True) -> list:
    """math-verify's reading: expressions, then the text it read them from; empty if none."""
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
    found = parse(
        text,
        extraction_config=(latex, ExprExtractionConfig()),
        parsing_timeout=INNER_SECONDS,
        raise_on_error=True,
    )
    if found and re.search(r"[A-Za-z]_", str(found[-1])) and _number(found[0]) is not None:
        return []  # of names with an index it has read a number alone
    return found


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
