"""Token ids cross between models only where both number their tokens alike."""

from leyden.artifacts import prompt_counts
from leyden.data.render import load_tokenizer, vocabulary_digest
from leyden.errors import AlignmentError
from leyden.run import Run


def check_vocabulary(run: Run, role: str) -> None:
    """Ids must mean the same to the model in ``role`` as to the tokenizer that made them."""
    found = vocabulary_digest(load_tokenizer(run.place(role)))
    if found != prompt_counts(run)["vocabulary"]:
        raise AlignmentError(
            f"{run.place(role)}: numbers its tokens otherwise than the tokenizer that rendered "
            "the prompts",
            hint=f"use a {role} of the same vocabulary",
        )
