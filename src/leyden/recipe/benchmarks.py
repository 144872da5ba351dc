"""Benchmarks: what ``[evaluate]`` of a recipe says, and the known ones of benchmarks.toml.

A known benchmark is nothing but defaults for ``[[evaluate.benchmarks]]`` under its name: whatever a
recipe states replaces them, and the resolved recipe shows them all.
"""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import Field, model_validator

from leyden.recipe.sampling import Sampling
from leyden.recipe.section import WHERE, Count, Fraction, Name, Positive, Section, Size

BUILT_IN_GRADERS = ("math", "code", "exact")
Fields = str | tuple[str, ...]


class HubFiles(Section):
    """Data files of a Hugging Face data set at one revision."""

    repo: str
    """The data set's id, ``org/name``."""
    revision: str
    """A commit, so that the problems cannot change."""
    files: str
    """Which files, as a glob; JSON lines, JSON or Parquet, read in the order of their names."""


class Problems(Section):
    """Where problems are and how a row is read. Of a tuple of fields the first that is there."""

    file: str | None = Field(default=None, json_schema_extra=WHERE)
    """Path of a local file, relative to the recipe; it goes before ``hub``."""
    hub: HubFiles | None = None
    """The published files."""
    prompt_field: Fields = "prompt"
    """The question."""
    answer_field: Fields | None = None
    """The reference answer. Where it holds ``\\boxed{...}``, what is inside."""
    answer_after: str | None = None
    """The answer is what follows the last of these marks in its field."""
    id_field: Fields | None = None
    """A unique id; without it, the sha256 of the prompt is the id."""
    instruction: str = "{prompt}"
    """What the model is asked: ``{prompt}``, and for code ``{examples}`` (the asserts of a row that
    its prompt does not show) and ``{starter}`` (how to answer: the row's starter code, or standard
    input and output). A prompt that already holds the words around ``{prompt}`` stays as it is."""
    date_field: str | None = None
    """The field that holds a problem's date, as ``2025-02-01...``."""
    first_date: str | None = None
    """Leave out problems before this day."""
    last_date: str | None = None
    """Leave out problems after this day."""
    skip: Size = 0
    """Leave out this many rows from the start."""
    limit: Count | None = None
    """Use this many rows at most."""

    @model_validator(mode="after")
    def _has_a_place(self):
        if self.file is None and self.hub is None:
            raise ValueError("problems: no place to read them from; set problems.file")
        if "{prompt}" not in self.instruction:
            raise ValueError("problems.instruction must hold {prompt}")
        if (self.first_date or self.last_date) and self.date_field is None:
            raise ValueError("problems.first_date and last_date need problems.date_field")
        return self


class Benchmark(Sampling):
    """Problems with a grader. The defaults of sampling are the paper's protocol."""

    name: Name
    """Shown in tables. A known benchmark's name brings its problems, grader and samples."""
    known: str | None = None
    """A known benchmark under another name, such as a second date window."""
    problems: Problems
    """Where the problems are and how to read them."""
    grader: str = Field(default="math", json_schema_extra=WHERE)
    """``math`` (math-verify), ``code`` (tests in the sandbox), ``exact``, or
    ``path/file.py:function`` taking (row, completion)."""
    temperature: Positive = 0.6
    """Softmax temperature of the sampler."""
    top_p: Fraction = 0.95
    """Nucleus: sample from the smallest set of tokens whose mass reaches this."""

    @property
    def grader_path(self) -> str:
        """The file of a grader of the user's; empty for those built in."""
        return self.grader.rpartition(":")[0]

    def identity(self) -> dict[str, Any]:
        """With the grader's name, not where it lies: its file counts by content."""
        return super().identity() | {"grader": self.grader.rpartition("/")[2]}

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, values: Any) -> Any:
        return _with_tuples(_with_known(values)) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _grader_has_an_answer(self):
        if self.grader in ("exact", "math") and self.problems.answer_field is None:
            raise ValueError(
                f"benchmark {self.name!r}: grader = {self.grader!r} compares with an answer; "
                "set problems.answer_field"
            )
        return self


def _with_known(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` over the defaults of the known benchmark that they name."""
    name = values.get("known") or values.get("name")
    defaults = known_benchmarks().get(str(name))
    if defaults is None:
        if values.get("known"):
            raise ValueError(
                f"known = {name!r} is no benchmark; known are {', '.join(known_benchmarks())}"
            )
        return values
    given = values.get("problems", {})
    if not isinstance(given, dict):
        return values
    problems = defaults["problems"] | given
    if "file" in given:
        problems.pop("hub", None)
    return defaults | values | {"problems": problems}


@cache
def known_benchmarks() -> dict[str, dict[str, Any]]:
    """Name -> the defaults of that benchmark."""
    found = tomllib.loads(files("leyden.recipe").joinpath("benchmarks.toml").read_text())
    common = found.pop("common")
    for values in found.values():
        problems = values["problems"]
        problems["instruction"] = common.get(problems["instruction"], problems["instruction"])
    return found


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """TOML and JSON know lists alone; what goes through our own code must be what the type says."""
    problems = values.get("problems")
    if not isinstance(problems, dict):
        return values
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in problems.items()}
    return values | {"problems": tuples}


class SandboxLimits(Section):
    """What one tested program may use, and where it runs."""

    image: str = Field(default="python:3.11-slim", json_schema_extra=WHERE)
    """For docker and podman, used where bubblewrap does not work: an image that is already here."""
    cpu_seconds: Count = 10
    """CPU time over all processes; of each test case, where cases are run one by one."""
    wall_seconds: Positive = 30.0
    """Time on the clock, all together, of the same."""
    memory_mb: Count = 2048
    """Memory of all its processes together."""
    processes: Count = 64
    """Processes and threads at a time."""


class Evaluate(Section):
    """Stage 6: every model made answers the same questions."""

    benchmarks: tuple[Benchmark, ...] = ()
    """Each ``[[evaluate.benchmarks]]``."""
    sandbox: SandboxLimits = SandboxLimits()
    """Limits of tested programs."""
    allow_unsandboxed_code: bool = Field(default=False, json_schema_extra=WHERE)
    """Run what models wrote on this very machine where no sandbox works: only in a machine that is
    itself thrown away."""
    graders: Size = Field(default=0, json_schema_extra=WHERE)
    """Answers graded at the same time; 0 = one per CPU."""
    kl_prompts: Size = 0
    """Measure reverse KL to the teacher on fresh rollouts of so many held-out prompts; 0 = not."""
    kl_max_new_tokens: Count = 256
    """Length cap of those rollouts."""

    @model_validator(mode="after")
    def _names_differ(self):
        names = [b.name for b in self.benchmarks]
        if len(set(names)) < len(names):
            raise ValueError(f"benchmark names must differ; got {names}")
        return self


def problem_files(settings: Evaluate) -> dict[str, str]:
    """Local files of problems: what each is -> its path."""
    return {
        f"problems of {b.name}": b.problems.file for b in settings.benchmarks if b.problems.file
    }


def grader_files(settings: Evaluate) -> dict[str, str]:
    """Files that hold a grader of the user's: what each is -> its path."""
    return {f"grader of {b.name}": path for b in settings.benchmarks if (path := b.grader_path)}
