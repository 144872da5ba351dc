"""Parts that several sections share: a file of prompts, and how completions are sampled."""

from pydantic import Field, model_validator

from leyden.recipe.section import ADDED, WHERE, Count, Fraction, NonNegative, Section, Size


class HubFiles(Section):
    """Data files of a Hugging Face data set at one revision."""

    repo: str
    """The data set's id, ``org/name``."""
    revision: str
    """A commit, so that the rows cannot change."""
    files: str | None = None
    """A glob of files: JSON lines, JSON, Parquet and so on, read in the order of their names."""
    config: str | None = Field(default=None, json_schema_extra=ADDED)
    """The data set's configuration, where it has several."""
    split: str | None = Field(default=None, json_schema_extra=ADDED)
    """In place of ``files``: the split, such as ``train``, whose files are found by their names."""

    @model_validator(mode="after")
    def _says_which(self):
        if (self.files is None) == (self.split is None):
            raise ValueError("hub: give either files, a glob, or split")
        if self.config and self.files:
            raise ValueError("hub: config goes with split; files names the files themselves")
        return self


class PromptFile(Section):
    """Files of prompts: JSON lines, JSON, Parquet, Arrow, CSV, TSV, or text with a prompt a line;
    ``.gz`` and ``.zst`` are unpacked."""

    file: str | tuple[str, ...] | None = Field(default=None, json_schema_extra=WHERE)
    """A file, a glob of files, the folder of a saved data set, or a list of such places, relative
    to the recipe; as a flag, to the working directory."""
    hub: HubFiles | None = Field(default=None, json_schema_extra=ADDED)
    """In place of ``file``: a data set of the Hub."""
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

    @model_validator(mode="after")
    def _has_a_place(self):
        if (self.file is None) == (self.hub is None):
            what = "no place" if self.file is None else "two places"
            raise ValueError(f"prompts have {what} to read them from; set either file or hub")
        return self

    @property
    def places(self) -> tuple[str, ...]:
        """The local places; none where the prompts are on the Hub."""
        return (self.file,) if isinstance(self.file, str) else self.file or ()

    @property
    def title(self) -> str:
        """The places or the data set, for people."""
        return self.hub.repo if self.hub else ", ".join(self.places)


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
