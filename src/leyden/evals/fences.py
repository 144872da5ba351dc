"""The code blocks of a Markdown text, as models write them.

By CommonMark's rules for fenced code (spec 0.31, section 4.5), and beyond them: a fence may follow
words on its line, a block in a list may be indented by any number of spaces, and a closing fence
may stand at the end of a line of code.
"""

import html
import re
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

OPENING = re.compile(r"(?P<before>[^`~\n]*?)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)")
TAGGED = re.compile(
    r"(?is)<code(?P<about>[^>]*)>(?P<one>.*?)</code>"
    r"|\[PYTHON\](?P<two>.*?)\[/PYTHON\]|\[BEGIN\](?P<three>.*?)\[(?:DONE|END)\]"
)
LANGUAGE = re.compile(r"[{.\s]*([\w+#-]*)")
WRAPPERS = ("markdown", "md")


class Block(NamedTuple):
    """A code block: the first word of its info string, in lower case, and its code."""

    language: str
    code: str


def code_blocks(text: str) -> list[Block]:
    """The fenced blocks of ``text`` in order; those in HTML or brackets where there are none."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return list(_fenced(lines)) or list(_tagged(text))


def _fenced(lines: list[str]) -> Iterator[Block]:
    number = 0
    while number < len(lines):
        opening = OPENING.fullmatch(lines[number])
        number += 1
        if not opening or not _opens(opening):
            continue
        language = _language(opening["info"])
        inside, number = _inside(lines, number, opening["fence"])
        if language in WRAPPERS:  # an answer that is a Markdown text itself
            yield from _fenced(inside)
        elif any(line.strip() for line in inside):
            yield Block(language, _dedented(inside, opening["before"]))


def _opens(opening: re.Match) -> bool:
    """Whether a line with a fence begins a block. After words the info is a language or nothing."""
    words = opening["before"].strip()
    return not words or len(opening["info"].split()) <= 1


def _language(info: str) -> str:
    match = LANGUAGE.match(info)
    return match[1].lower() if match else ""


def _inside(lines: list[str], number: int, fence: str) -> tuple[list[str], int]:
    """The lines up to the closing fence, or to the end, and the number of the line after it."""
    mark = re.escape(fence[0])
    alone = re.compile(rf"[ \t]*{mark}{{{len(fence)},}}[ \t]*")
    at_end = re.compile(rf"(?P<code>[^`~]*[^`~\s])[ \t]*{mark}{{{len(fence)},}}[ \t]*")
    inside: list[str] = []
    for place, line in enumerate(lines[number:], start=number):
        if alone.fullmatch(line):
            return inside, place + 1
        if closing := at_end.fullmatch(line):
            return [*inside, closing["code"]], place + 1
        inside.append(line)
    return inside, len(lines)


def _dedented(lines: list[str], before: str) -> str:
    """Without the indentation of the fence, which a block in a list has as well."""
    code = "\n".join(lines) + "\n"
    return textwrap.dedent(code) if before else code


def _tagged(text: str) -> Iterator[Block]:
    for match in TAGGED.finditer(text):
        parts = (match["one"], match["two"], match["three"])
        code = next(part for part in parts if part is not None)
        named = re.search(r"(?:language[-=]|lang=)\W?([\w+#]+)", match["about"] or "")
        code = html.unescape(code) if match["one"] is not None else code
        if "\n" in code.strip() or named or match["one"] is None:  # not a name within a sentence
            yield Block(named[1].lower() if named else "", code.strip("\n") + "\n")
