"""What prompts are read from and how completions are drawn: parts that several sections share."""

from pydantic import Field

from leyden.recipe.section import WHERE, Count, Fraction, Positive, Section, Size


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
    """Use this many rows at most."""


class Sampling(Section):
    """How completions are drawn."""

    temperature: Positive = 1.0
    """Softmax temperature of the sampler."""
    top_p: Fraction = 1.0
    """Nucleus: sample from the smallest set of tokens whose mass reaches this."""
    max_new_tokens: Count = 4096
    """Length cap, stop token included."""
    samples_per_prompt: Count = 1
    """Completions of each prompt."""
