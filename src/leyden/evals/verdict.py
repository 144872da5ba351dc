"""The verdict of a grader on one completion."""

from dataclasses import dataclass

RIGHT, WRONG, UNPARSED, TRUNCATED = "right", "wrong", "unparsed", "truncated"
NOT_GRADED = "not_graded"  # the machine, not the completion, kept it from being judged
OUTCOMES = (RIGHT, WRONG, UNPARSED, TRUNCATED, NOT_GRADED)
LETTERS = {outcome: outcome[0] for outcome in OUTCOMES}  # how results keep every sample's


@dataclass(frozen=True)
class Verdict:
    """An ``outcome`` of OUTCOMES. Only ``right`` counts; the others are told apart.

    ``answer`` is the completion's final answer, as it was read, for majority votes: equal texts are
    equal answers. It is empty for programs and where there is none. ``why`` is for people.
    ``lasting`` is False where a slow moment of this machine may have caused the outcome.
    """

    outcome: str
    answer: str = ""
    why: str = ""
    lasting: bool = True


def final_part(completion: str) -> str:
    """The text after the model's thinking: all of it where there is no ``</think>``."""
    return completion.rpartition("</think>")[2]
