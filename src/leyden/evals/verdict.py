"""The verdict of a grader on one completion."""

import re
from dataclasses import dataclass

RIGHT, WRONG, UNPARSED, TRUNCATED = "right", "wrong", "unparsed", "truncated"
NOT_GRADED = "not_graded"  # the machine, not the completion, kept it from being judged
OUTCOMES = (RIGHT, WRONG, UNPARSED, TRUNCATED, NOT_GRADED)
LETTERS = {outcome: outcome[0] for outcome in OUTCOMES}  # how results keep every sample's


# Tests that need a program's own objects run in its process.
FORGEABLE = "all its tests pass, in a process that the program could forge"


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


@dataclass(frozen=True)
class Grade:
    """A line of a file of grades: a sample of a problem, its verdict, and its ``text``."""

    prompt_id: str
    sample: int
    outcome: str
    answer: str = ""
    why: str = ""
    lasting: bool = True
    text: str = ""

    @classmethod
    def of(cls, prompt_id: str, sample: int, verdict: Verdict, text: str) -> "Grade":
        """The grade of a sample. Half characters, which files cannot hold, become ``?``."""
        outcome, lasting = verdict.outcome, verdict.lasting
        answer, why, whole = map(_writable, (verdict.answer, verdict.why, text))
        return cls(prompt_id, sample, outcome, answer, why, lasting, whole)


def _writable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


THINKING_ENDS = re.compile(
    r"</(?:\w+:)?(?:think|thinking|thought|reasoning|reason|reflection|scratchpad)>"
    r"|\[/THINK\]|<\|(?:end_of_thought|/think|end_thinking|END_THINKING)\|>|\u25c1/think\u25b7"
    r"|<\|channel\|>final<\|message\|>"
)
THINKING_BEGINS = re.compile(r"\s*(?:<(?:\w+:)?(?:think|thinking|thought|reasoning)>|\[THINK\])")


def final_part(completion: str) -> str:
    """The text after the model's thinking, by whichever mark it ends.

    Without a mark it is all of it, or nothing where thinking begins and does not end.
    """
    parts = THINKING_ENDS.split(completion)
    return "" if len(parts) == 1 and THINKING_BEGINS.match(completion) else parts[-1]
