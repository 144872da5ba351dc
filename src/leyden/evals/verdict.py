"""What a grader finds of one completion."""

from dataclasses import dataclass

RIGHT, WRONG, UNPARSED, TRUNCATED = "right", "wrong", "unparsed", "truncated"
OUTCOMES = (RIGHT, WRONG, UNPARSED, TRUNCATED)
LETTERS = {outcome: outcome[0] for outcome in OUTCOMES}  # how scores keep every sample's


@dataclass(frozen=True)
class Verdict:
    """``outcome`` is one of OUTCOMES: only ``right`` counts, the other three are told apart.

    ``answer`` is what was understood as the answer: equal texts are equal answers, which is what a
    majority vote counts; empty for programs and where there is none. ``why`` is for people.
    ``lasting`` is False where a slower moment of this machine could have made it.
    """

    outcome: str
    answer: str = ""
    why: str = ""
    lasting: bool = True


def final_part(completion: str) -> str:
    """What follows the model's thinking: all of it where there is no ``</think>``."""
    return completion.rpartition("</think>")[2]
