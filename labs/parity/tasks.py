"""Two tasks with exact verifiers, each with two equally right styles of answering.

``sums``: add 3 to 5 digits in any order with running totals, 12 to 20 tokens; the demo's task,
shorter. ``walk``: from a number, take so many steps of one to three, counting down and writing
the total modulo 10 after each, 84 to 140 tokens: when to stop follows from the count, and a student
that loses count runs on. Style ``large`` prefers large digits and ``small`` small ones.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

STYLES = {"large": +2.0, "small": -2.0, "even": 0.0}
Piece = tuple[str, bool]
"""One character and whether its own choice was a slip."""


@dataclass(frozen=True)
class Sums:
    name: str = "sums"
    teacher: tuple[int, int, int] = (96, 256, 3)  # width, inner width, layers
    student: tuple[int, int, int] = (64, 170, 2)
    training: tuple[int, int, int] = (1200, 200, 700)  # steps of teacher, other teacher, base
    batches: tuple[int, int] = (64, 64)  # of the teachers, of the base
    max_new_tokens: int = 48

    def make_prompt(self, rng: np.random.Generator) -> str:
        return "+".join(map(str, rng.integers(0, 10, rng.integers(3, 6)))) + "="

    def answer(self, rng, prompt: str, style: str, slip: float) -> Iterator[Piece]:
        """Characters of a right answer, or with ``slip`` one that goes wrong and on from there."""
        left, total, first = _terms(prompt), 0, True
        for _ in range(3 * len(left)):
            if not left:
                return
            if not first:
                yield ",", False
            absent = [d for d in range(10) if d not in left]
            slips, wrong = rng.random(2) < slip
            if slips and absent:
                term = int(rng.choice(absent))
            else:
                slips, term = False, left.pop(_pick(rng, left, style))
            total = _wrong(rng, (total + term) % 10) if wrong else (total + term) % 10
            first = False
            yield str(term), bool(slips)
            yield ">", False
            yield str(total), bool(wrong)

    def grade(self, prompt: str, completion: str) -> bool:
        used, total = [], 0
        for step in completion.split(","):
            if len(step) != 3 or step[1] != ">" or not (step[0] + step[2]).isdigit():
                return False
            total = (total + int(step[0])) % 10
            if total != int(step[2]):
                return False
            used.append(int(step[0]))
        return Counter(used) == Counter(_terms(prompt))


@dataclass(frozen=True)
class Walk:
    name: str = "walk"
    teacher: tuple[int, int, int] = (96, 256, 3)
    student: tuple[int, int, int] = (32, 86, 2)
    training: tuple[int, int, int] = (500, 120, 900)
    batches: tuple[int, int] = (16, 32)
    max_new_tokens: int = 190

    def make_prompt(self, rng: np.random.Generator) -> str:
        return f"{rng.integers(12, 21)}.{rng.integers(100, 1000)}="

    def answer(self, rng, prompt: str, style: str, slip: float) -> Iterator[Piece]:
        count, total = int(prompt[:2]), int(prompt[5])
        last = count + 4
        for number in range(last):
            if number:
                yield ",", False
            miscounts, wrong = rng.random(2) < slip * np.array([0.5, 1.0])
            shown = max(1, count + int(rng.choice([-2, -1, 1, 2]))) if miscounts else count
            step = 1 + _pick(rng, [3, 6, 9], style)
            total = _wrong(rng, (total + step) % 10) if wrong else (total + step) % 10
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


TASKS = {task.name: task for task in (Sums(), Walk())}


def grade_sums(problem: dict, completion: str) -> bool:
    return TASKS["sums"].grade(problem["prompt"], completion)


def grade_walk(problem: dict, completion: str) -> bool:
    return TASKS["walk"].grade(problem["prompt"], completion)


def _terms(prompt: str) -> list[int]:
    return [int(t) for t in prompt.rstrip("=").split("+")]


def _pick(rng, values: list[int], style: str) -> int:
    """An index into ``values``, by style."""
    weight = np.exp(STYLES[style] * np.array(values) / 9)
    return int(rng.choice(len(values), p=weight / weight.sum()))


def _wrong(rng, total: int) -> int:
    return (total + int(rng.integers(1, 10))) % 10
