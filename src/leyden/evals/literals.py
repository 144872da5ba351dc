"""Answers that are Python values, such as the outputs that CRUXEval asks for."""

import ast
import re
import warnings
from collections.abc import Iterable, Iterator

from leyden.evals.boxes import last_boxed

MARKED = re.compile(r"\[ANSWER\](.*?)(?:\[/ANSWER\]|\Z)", re.DOTALL)
FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
SAID = re.compile(r"(?i)(?:answer|output|result|returns?)\s*(?:is|:|=|==)?\s*:?\s*(.+)")
MOST_CUTS = 60  # places at which words after a value are cut off
MOST_CHARACTERS = 100_000  # of a value; deeper or longer ones are not read


def said_values(text: str) -> list[str]:
    """The Python value that a text gives as its answer, as it is written; empty where none is.

    It is looked for between [ANSWER] marks, in the last box, then in blocks of code and after words
    such as "the output is", the last first, and on the last line.
    """
    lines = [line for line in text.strip().splitlines() if line.strip()]
    told = sorted((m.start(1), m[1]) for one in (FENCED, SAID) for m in one.finditer(text))
    boxed = last_boxed(text)
    places = [
        *MARKED.findall(text)[-1:],
        *([] if boxed is None else [boxed.replace("\\{", "{").replace("\\}", "}")]),
        *[place for _, place in reversed(told)],
        *lines[-1:],
    ]
    found = (candidate for place in places for candidate in _readings(place))
    return [candidate for candidate in [next(found, None)] if candidate is not None]


def _readings(place: str) -> Iterator[str]:
    """The values that a place may mean: what it holds without marks of Markdown, or what it
    compares something with; words after it are cut off."""
    bare = place.strip().strip("`*$").strip().removeprefix("assert ")
    ends = [len(bare), *[m.start() for m in re.finditer(r"[\s.,;`*]", bare)][::-1][:MOST_CUTS]]
    for end in ends:
        part = bare[:end].strip().rstrip(".,;:").strip("`* ")
        if is_literal(part):
            yield part
        elif (compared := _compared(part)) and is_literal(compared):
            yield compared


def _compared(text: str) -> str:
    """The right side of a comparison such as ``f(1) == [2]``; empty for anything else."""
    parsed = _parsed(text)
    if isinstance(parsed, ast.Compare) and isinstance(parsed.ops[-1], ast.Eq):
        return ast.get_source_segment(text, parsed.comparators[-1]) or ""
    return ""


def is_literal(text: str) -> bool:
    """Whether a text is a Python value."""
    return _read(text) is not None


def same_literal(text: str, answer: str) -> bool:
    """Whether two texts are the same Python value; a text that is none is compared as text."""
    value, expected = _read(text), _read(answer)
    if value is None or expected is None:
        return text.strip() == answer.strip()
    return _same(ast.literal_eval(value), ast.literal_eval(expected))


def _same(value: object, expected: object) -> bool:
    """Equal, and of the same kind at any depth: True is not 1, and a tuple is not a list."""
    if isinstance(value, bool) != isinstance(expected, bool):
        return False
    if isinstance(value, list | tuple) and isinstance(expected, list | tuple):
        same_kind = type(value) is type(expected) and len(value) == len(expected)
        return same_kind and all(map(_same, value, expected))
    if isinstance(value, dict) and isinstance(expected, dict):
        same_keys = _kinds(value) == _kinds(expected)
        return same_keys and all(_same(value[key], expected[key]) for key in expected)
    if isinstance(value, set) and isinstance(expected, set):
        return _kinds(value) == _kinds(expected)
    return value == expected


def _kinds(values: Iterable[object]) -> set[tuple[bool, object]]:
    return {(isinstance(value, bool), value) for value in values}


def _read(text: str) -> ast.expr | None:
    """The text as a literal; None where it is none."""
    parsed = _parsed(text)
    try:
        if parsed is not None:
            ast.literal_eval(parsed)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return parsed


def _parsed(text: str) -> ast.expr | None:
    if not text or len(text) > MOST_CHARACTERS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in texts
            return ast.parse(text.strip(), mode="eval").body
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
