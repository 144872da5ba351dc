"""Parts that several sections share: a file of prompts, and how completions are sampled."""

from pydantic import Field

from leyden.recipe.section import ADDED, WHERE, Count, Fraction, NonNegative, Section, Size


class PromptFile(Section):
    """Files of prompts: JSON lines, JSON, Parquet, Arrow, CSV, TSV, or text with a prompt a line;
    ``.gz`` and ``.zst`` are unpacked."""

    file: str = Field(json_schema_extra=WHERE)
    """A file, a glob of files, or the folder of a saved data set, relative to the recipe; as a
    flag, to the working directory."""
    prompt_field: str = "prompt"
    """The field that holds the prompt: its text, or a list of messages. A dot leads into an object.
    To ``instruction`` the field ``input`` is added, as Alpaca's layout has it."""
    answer_field: str | None = None
    """The field that holds the reference answer, for graders that need one."""
    id_field: str | None = None
    """The field that holds a unique id; without it, the sha256 of the prompt is the id."""
    skip: Size = 0
    """Leave out this many rows from the start."""
    limit: Count | None = None
    """Use at most this many rows."""
    deduplicate: bool = Field(default=False, json_schema_extra=ADDED)
    """Keep the first of rows with the same prompt, and count the others."""


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
