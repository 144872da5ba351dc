"""Completions with slips in them, and batches of them; both tasks use these."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

import demo

Piece = tuple[str, bool]
"""One character and whether its own choice was a slip."""


class Task(Protocol):
    def make_prompt(self, rng: np.random.Generator) -> str: ...

    def answer(self, rng, prompt: str, style: str, slip: float) -> Iterator[Piece]: ...


def make_batch(
    rng,
    task: Task,
    encode: Callable[[str], list[int]],
    *,
    style: str,
    slip: float,
    learn_slips: bool,
    size: int,
) -> demo.models.Batch:
    """Make ``size`` new problems with completions; slips carry loss only with ``learn_slips``."""
    rows = []
    for _ in range(size):
        prompt = task.make_prompt(rng)
        pieces = list(task.answer(rng, prompt, style, slip))
        ids = encode("".join(c for c, _ in pieces))
        told = [
            i if learn_slips or not slipped else demo.models.IGNORED
            for i, (_, slipped) in zip(ids, pieces, strict=True)
        ]
        silent = [demo.models.IGNORED] * len(prompt)
        rows.append(([*encode(prompt), *ids, 1], [*silent, *told, 1]))
    return demo.models.pad(rows)


def pick_step(rng, style: str, longest: int = 3) -> int:
    """Draw a step of 1 to ``longest``, by style."""
    weight = np.exp(demo.task.STYLES[style] * np.arange(3, 3 * longest + 1, 3) / 9)
    return 1 + int(rng.choice(longest, p=weight / weight.sum()))


def miscount(rng, count: int) -> int:
    return max(1, count + int(rng.choice([-2, -1, 1, 2])))


def wrong_digit(rng, digit: int) -> int:
    return (digit + int(rng.integers(1, 10))) % 10
