"""The demo's task with 4 or 5 digits to add in any order with running totals, 16 to 20 tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import demo


@dataclass(frozen=True)
class Sums:
    name: str = "sums"
    teacher: tuple[int, int, int] = (96, 256, 3)  # width, inner width, layers
    student: tuple[int, int, int] = (96, 256, 2)
    training: tuple[int, int, int] = (800, 150, 500)  # steps of teacher, other teacher, base
    batches: tuple[int, int] = (64, 64)  # of the teachers, of the base
    base_rate: float = 4e-3
    slip: float = 0.05  # in what the base learns from
    batch: int = 64  # sequences in a step of an arm
    max_new_tokens: int = 48
    grader: str = f"{demo.FOLDER}/task.py:grade"
    longest: int = 5

    def make_prompt(self, rng: np.random.Generator) -> str:
        return demo.task.make_prompt(demo.task.make_terms(rng, longest=self.longest))

    def make_batch(self, rng, encode: Callable[[str], list[int]], **settings) -> demo.models.Batch:
        return demo.models.make_batch(rng, encode, longest=self.longest, **settings)

    def grade(self, prompt: str, completion: str) -> bool:
        return demo.task.grade({"prompt": prompt}, completion)
