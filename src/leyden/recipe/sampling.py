"""Parts that several sections share: a file of prompts, and how completions are sampled."""

from pydantic import Field

from leyden.recipe.section import WHERE, Count, Fraction, NonNegative, Section, Size


class PromptFile(Section):
    """A JSON-lines file of prompts."""

    file: str = Field(json_schema_extra=WHERE)
    """Path, relative to the recipe; as a flag, to the working directory."""
    prompt_field: str = "prompt"
    """The field that holds the prompt's text."""
    answer_field: str | None = None
    """The field that holds the reference answer, for graders that need one."""
    id_field: str | None = None
    """The field that holds a unique id; without it, the sha256 of the prompt is the id."""
    skip: Size = 0
    """Leave out this many rows from the start."""
    limit: Count | None = None
    """Use at most this many rows."""


class Sampling(Section):
    """Settings of the sampler."""

    temperature: NonNegative = 1.0
    """Softmax temperature of the sampler; 0 = the likeliest token every time (greedy)."""
    top_p: Fraction = 1.0
    """Nucleus: sample from the smallest set of likeliest tokens whose mass reaches this."""
    max_new_tokens: Count = 4096
    """Length cap, stop token included."""
    samples_per_prompt: Count = 1
    """Completions of each prompt."""
