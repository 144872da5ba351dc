"""Answers that are Python values, such as the outputs that CRUXEval asks for."""

import ast
import re
import warnings

from leyden.evals.boxes import last_boxed

MARKED = re.compile(r"\[ANSWER\](.*?)\[/ANSWER\]", re.DOTALL)
FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
SAID = re.compile(r"(?i)(?:answer|output|result|returns?)\s*(?:is|:|=|==)\s*:?\s*(.+)")
MOST_CHARACTERS = 100_000  # of a value; deeper or longer ones are not read


def said_values(text: str) -> list[str]:
    """The Python value that a text gives as its answer, as it is written; empty where none is.

    It is looked for between [ANSWER] marks, in the last box, in the last block of code, after words
    such as "the output is", and on the last line, in that order.
    """
    lines = [line for line in text.strip().splitlines() if line.strip()]
    places = [
        *MARKED.findall(text)[-1:],
        *[box for box in [last_boxed(text)] if box is not None],
        *FENCED.findall(text)[-1:],
        *SAID.findall(text)[-1:],
        *lines[-1:],
    ]
    for place in places:
        for candidate in _readings(place):
            if _read(candidate) is not None:
                return [candidate]
    return []


def _readings(place: str) -> list[str]:
    """A place as it is, without marks of Markdown, and what stands behind its last ``==``."""
    bare = place.strip().strip("`*$").strip()
    compared = bare.rpartition("==")[2].strip()
    return [bare, bare.rstrip(".").strip("`* "), compared, compared.rstrip(".").strip("`* ")]


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
        same_keys = value.keys() == expected.keys()
        return same_keys and all(_same(value[key], expected[key]) for key in expected)
    return value == expected


def _read(text: str) -> ast.expr | None:
    """The text as a literal; None where it is none."""
    if not text or len(text) > MOST_CHARACTERS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in texts
            parsed = ast.parse(text.strip(), mode="eval").body
            ast.literal_eval(parsed)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return parsed
