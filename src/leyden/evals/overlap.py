"""Do training prompts hold benchmark problems? The same text, or 13 words in a row.

Thirteen words is what GPT-3 used (arXiv 2005.14165, appendix C). Case, punctuation and spacing do
not count. Words in a row that three or more problems of one benchmark share are its turns of phrase
("where m and n are relatively prime positive integers, find m + n") and betray nothing.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

GRAM = 13
PHRASE = 3  # problems that share a phrase; more hold it because the benchmark speaks like that


@dataclass(frozen=True)
class Overlap:
    """``prompt`` holds (a part of) ``problem``: ``kind`` is "exact" or "13-gram"; ``shared`` is the
    words, cut after some."""

    problem: str
    prompt: str
    kind: str
    shared: str


def words_of(text: str) -> list[str]:
    """Words and numbers, in lower case."""
    return re.findall(r"\w+", text.casefold())


class ProblemIndex:
    """The problems of one benchmark, ready to be looked for. ``problems``: id -> text."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.whole: dict[str, str] = {}
        holders: dict[str, set[str]] = {}
        for name, text in problems.items():
            words = words_of(text)
            self.whole.setdefault(" ".join(words), name)
            for gram in _grams(words):
                holders.setdefault(gram, set()).add(name)
        self.grams = {gram: min(names) for gram, names in holders.items() if len(names) < PHRASE}

    def find(self, prompts: Iterable[tuple[str, str]]) -> Iterator[Overlap]:
        """One overlap for each (prompt id, text) that holds anything of a problem; exact first."""
        for name, text in prompts:
            words = words_of(text)
            whole = " ".join(words)
            if whole in self.whole:
                yield Overlap(self.whole[whole], name, "exact", _short(whole))
                continue
            found = next((gram for gram in _grams(words) if gram in self.grams), None)
            if found is not None:
                yield Overlap(self.grams[found], name, f"{GRAM}-gram", found)


def _grams(words: list[str]) -> Iterator[str]:
    return (" ".join(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1))


def _short(text: str) -> str:
    return text if len(text) < 160 else text[:160] + "..."
