"""The task ``climb``: climb 4 to 9 stairs in steps of one to three.

After each step a completion has the running total modulo 10 and the number of remaining stairs, in
all 12 to 54 tokens. Style ``large`` takes large steps, so its completions are shorter than those of
``small``: two teachers that are right and stop in different places.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from answers import Piece, miscount, pick_step, wrong_digit


@dataclass(frozen=True)
class Climb:
    name: str = "climb"
    teacher: tuple[int, int, int] = (96, 256, 3)  # width, inner width, layers
    student: tuple[int, int, int] = (32, 86, 2)
    training: tuple[int, int, int] = (300, 80, 500)  # steps of teacher, other teacher, base
    batches: tuple[int, int] = (32, 64)  # of the teachers, of the base
    base_rate: float = 3e-3
    slip: float = 0.05  # in what the base learns from
    batch: int = 32  # sequences in a step of an arm
    max_new_tokens: int = 72
    grader: str = f"{__file__}:grade"

    def make_prompt(self, rng: np.random.Generator) -> str:
        return f"{rng.integers(4, 10)}.{rng.integers(100, 1000)}="

    def answer(self, rng, prompt: str, style: str, slip: float) -> Iterator[Piece]:
        """The characters of a right answer; with ``slip``, of one that goes on from mistakes."""
        left, total = int(prompt[0]), int(prompt[4])
        for number in range(9):
            if number:
                yield ",", False
            miscounts, wrong = rng.random(2) < slip * np.array([0.5, 1.0])
            step = pick_step(rng, style, min(3, left))
            left = min(9, miscount(rng, left)) if miscounts else left - step
            total = (total + step) % 10
            total = wrong_digit(rng, total) if wrong else total
            yield str(step), False
            yield ">", False
            yield str(total), bool(wrong)
            yield ":", False
            yield str(left), bool(miscounts)
            if left < 1:
                return

    def grade(self, prompt: str, completion: str) -> bool:
        left, total = int(prompt[0]), int(prompt[4])
        for step in completion.split(","):
            if len(step) != 5 or step[1] + step[3] != ">:":
                return False
            digits = step[0] + step[2] + step[4]
            if not digits.isdigit() or not digits.isascii() or step[0] not in "123":
                return False
            left, total = left - int(step[0]), (total + int(step[0])) % 10
            if int(step[4]) != left or int(step[2]) != total:
                return False
        return left == 0


def grade(problem: dict, completion: str) -> bool:
    return Climb().grade(problem["prompt"], completion)
