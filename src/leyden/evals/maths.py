"""Grade mathematics by math-verify, and by equal text where it cannot read an answer.

The final answer is the content of the last ``\\boxed{...}``. Without a box it is the expression
that math-verify finds near words like "the answer is", or the last one. Source: math-verify 0.9
(github.com/huggingface/Math-Verify).
"""

import logging
import re
import sys

from leyden.evals.math_text import both_signs, in_base, plain, respell
from leyden.evals.problems import last_boxed, last_boxes
from leyden.evals.verdict import RIGHT, UNPARSED, WRONG, Verdict, final_part

WORKER_MEMORY = 6 * 2**30  # bytes of address space: an absurd power ends as a MemoryError
INNER_SECONDS = 5  # for one parse or one comparison
SHOWN = 200  # characters
SMALL, SMALL_TOLERANCE = 0.01, 1e-3  # below the first, numbers are compared relatively


def prepare_worker() -> None:
    """Limit the memory of a grading process and silence its libraries. Called once in each."""
    if sys.platform != "win32":
        import resource

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
    value, expected = in_base(boxed), in_base(gold)
    if value is not None and expected is not None:  # math-verify reads the digits alone
        return _verdict(value == expected, plain(boxed), boxed, gold)
    return _guarded(gold, f"\\boxed{{{both_signs(respell(boxed))}}}", boxed)


def _guarded(gold: str, text: str, boxed: str) -> Verdict:
    """Compare, and turn whatever sympy raises into a verdict. ``text`` is the whole completion, or
    its one box."""
    from math_verify.errors import TimeoutException

    try:
        return _compare(gold, text, boxed)
    except (Exception, TimeoutException) as error:
        why = f"{_short(boxed or text)} could not be compared: {type(error).__name__}: "
        return Verdict(WRONG if boxed else UNPARSED, plain(boxed), why + str(error)[:100])


def _compare(gold: str, text: str, boxed: str) -> Verdict:
    """Compare without units, then with them: the m of ``\\frac{37}{4} m`` is meters or a letter."""
    shown = name = ""
    for units in (True, False):
        parsed = read_answer(text, units=units)
        if not parsed:
            continue
        shown, name = boxed or str(parsed[0]), plain(boxed) if boxed else str(parsed[-1])
        expected = read_answer(f"\\boxed{{{both_signs(respell(gold))}}}", units=units)
        if expected and equal(expected, parsed):
            return _verdict(True, name, shown, gold)
    if shown:
        return _verdict(False, name, shown, gold)
    if boxed:
        return Verdict(WRONG, plain(boxed), f"{_short(boxed)} is no expression")
    return Verdict(UNPARSED, why="no answer: nothing boxed, and no expression found")


def _verdict(right: bool, answer: str, shown: str, gold: str) -> Verdict:
    why = f"{_short(shown)} {'is' if right else 'is not'} {_short(gold)}"
    return Verdict(RIGHT if right else WRONG, answer, why)


def equal(expected: list, parsed: list) -> bool:
    """Whether math-verify calls two readings equal, and small numbers also agree relatively: it
    rounds to six decimals, in which they are all alike."""
    from math_verify import verify

    same = verify(
        expected,
        parsed,
        allow_set_relation_comp=True,  # [-2, 7] is -2 <= x <= 7
        timeout_seconds=INNER_SECONDS,
        raise_on_error=True,
    )
    if not same:
        return False
    first, second = _number(expected[0]), _number(parsed[0])
    if first is None or second is None or max(abs(first), abs(second)) >= SMALL:
        return True
    return abs(first - second) <= SMALL_TOLERANCE * max(abs(first), abs(second))


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None


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
    if parsed and re.search(r"[A-Za-z]_", str(parsed[-1])) and _number(parsed[0]) is not None:
        return []  # it read a number alone from a name with an index
    return parsed


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
