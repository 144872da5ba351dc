"""Text of models and names of files, made harmless for a terminal."""

import logging
import re

# Characters that a terminal obeys instead of showing: control codes, and changes of direction.
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """The text with such characters written out, as in Python: models and files may hold any."""
    return OBEYED.sub(lambda match: ascii(match[0])[1:-1], text)


class VisibleFormatter(logging.Formatter):
    """Warnings may quote prompts and names of files."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))
