"""The task ``walk``: take n steps of one to three from a number.

After each step a completion has the count and the total modulo 10, in all 84 to 140 tokens. The
count says when to stop, so a student that loses count runs on. Style ``large`` prefers large steps
and ``small`` small ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from answers import Piece, miscount, pick_step, wrong_digit


@dataclass(frozen=True)
class Walk:
    name: str = "walk"
    teacher: tuple[int, int, int] = (96, 256, 3)
    student: tuple[int, int, int] = (32, 86, 2)
    training: tuple[int, int, int] = (500, 120, 900)
    batches: tuple[int, int] = (16, 32)
    base_rate: float = 3e-3
    slip: float = 0.05
    batch: int = 32
    max_new_tokens: int = 190
    grader: str = f"{__file__}:grade"

    def make_prompt(self, rng: np.random.Generator) -> str:
        return f"{rng.integers(12, 21)}.{rng.integers(100, 1000)}="

    def answer(self, rng, prompt: str, style: str, slip: float) -> Iterator[Piece]:
        """The characters of a right answer; with ``slip``, of one that goes on from mistakes."""
        count, total = int(prompt[:2]), int(prompt[5])
        last = count + 4
        for number in range(last):
            if number:
                yield ",", False
            miscounts, wrong = rng.random(2) < slip * np.array([0.5, 1.0])
            shown = miscount(rng, count) if miscounts else count
            step = pick_step(rng, style)
            total = wrong_digit(rng, (total + step) % 10) if wrong else (total + step) % 10
            tens, ones = f"{shown:02d}"
            yield tens, bool(miscounts)
            yield ones, bool(miscounts)
            yield ":", False
            yield str(step), False
            yield ">", False
            yield str(total), bool(wrong)
            count = shown - 1
            if count < 1:
                return

    def grade(self, prompt: str, completion: str) -> bool:
        count, total = int(prompt[:2]), int(prompt[5])
        for step in completion.split(","):
            if len(step) != 6 or step[2] != ":" or step[4] != ">":
                return False
            digits = step[:2] + step[3] + step[5]
            if not digits.isdigit() or not digits.isascii() or step[3] not in "123":
                return False
            total = (total + int(step[3])) % 10
            if int(step[:2]) != count or int(step[5]) != total:
                return False
            count -= 1
        return count == 0


def grade(problem: dict, completion: str) -> bool:
    return Walk().grade(problem["prompt"], completion)
