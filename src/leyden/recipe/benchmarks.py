"""Benchmarks: the section ``[evaluate]`` of a recipe, and the known ones of benchmarks.toml.

A known benchmark is no more than defaults for ``[[evaluate.benchmarks]]`` under its name. Whatever
a recipe states replaces them, and the resolved recipe shows them all.
"""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import Field, model_validator

from leyden.recipe.sampling import HubFiles, Sampling
from leyden.recipe.section import (
    ADDED,
    WHERE,
    Count,
    Fraction,
    Name,
    NonNegative,
    Positive,
    Section,
    Size,
)

COMPARING = ("math", "exact", "literal")  # graders that compare with an answer
BUILT_IN_GRADERS = ("math", "code", "exact", "literal")
Fields = str | tuple[str, ...]


class Problems(Section):
    """The place of the problems, and the fields of a row. Of several names the first is used."""

    file: str | tuple[str, ...] | None = Field(default=None, json_schema_extra=WHERE)
    """A local file, a glob, the folder of a saved data set, or a list of such places, relative to
    the recipe. It is used instead of ``hub``."""
    hub: HubFiles | None = None
    """The published files."""
    prompt_field: Fields = "prompt"
    """The question."""
    answer_field: Fields | None = None
    """The reference answer; ``answer`` where the grader needs one. Where it holds
    ``\\boxed{...}``, the content of the box."""
    answer_after: str | None = None
    """The answer follows the last of these marks in its field."""
    id_field: Fields | None = None
    """A unique id; without it, the sha256 of the prompt is the id."""
    instruction: str = "{prompt}"
    """The text for the model, around ``{prompt}``. For code also ``{examples}``, the asserts of a
    row that its prompt does not show, and ``{starter}``, the row's starter code or a sentence about
    standard input and output; for all, ``{row.NAME}``, another field of the row. A prompt that
    already holds the words after ``{prompt}`` stays as it is."""
    date_field: str | None = None
    """The field that holds a problem's date, as ``2025-02-01...``."""
    first_date: str | None = None
    """Leave out problems before this day."""
    last_date: str | None = None
    """Leave out problems after this day."""
    skip: Size = 0
    """Leave out this many rows from the start."""
    limit: Count | None = None
    """Use at most this many rows."""

    @property
    def places(self) -> tuple[str, ...]:
        """The local places; none where the problems are on the Hub."""
        return (self.file,) if isinstance(self.file, str) else self.file or ()

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
    """Problems with a grader. Sampling defaults to the paper's protocol."""

    name: Name
    """The name in tables. A known benchmark's name brings its problems, grader and samples."""
    known: str | None = None
    """Take a known benchmark's defaults under another name, as for a second date window."""
    problems: Problems
    """The place of the problems, and how to read them."""
    grader: str = Field(default="math", json_schema_extra=WHERE)
    """``math`` (math-verify), ``code`` (tests in the sandbox), ``exact`` (the same text),
    ``literal`` (the same Python value), or ``path/file.py:function`` taking (row, completion)."""
    temperature: NonNegative = 0.6
    """Softmax temperature of the sampler; 0 = greedy, with one sample unless more are asked for."""
    top_p: Fraction = 0.95
    """Nucleus: sample from the smallest set of likeliest tokens whose mass reaches this."""

    float_tolerance: Positive | None = Field(default=None, json_schema_extra=ADDED)
    """For ``code``: numbers in outputs and results may differ by this, absolutely or relatively."""
    any_order: bool = Field(default=False, json_schema_extra=ADDED)
    """For ``code``: lines, words and items of a list may be in any order."""
    ignore_case: bool = Field(default=False, json_schema_extra=ADDED)
    """For ``code``: capital and small letters are the same."""
    checker: str | None = Field(default=None, json_schema_extra=WHERE)
    """For ``code``: ``path/file.py:function`` taking (input, output, expected), which decides in
    place of a comparison. Where tests are calls, it gets arguments and results."""

    @property
    def own_files(self) -> dict[str, str]:
        """Files with functions of the user's: what each is -> its path."""
        named = {"grader": self.grader, "checker": self.checker or ""}
        paths = {name: text.rpartition(":")[0] for name, text in named.items()}
        return {f"{name} of {self.name}": path for name, path in paths.items() if path}

    def identity(self) -> dict[str, Any]:
        """With the names of the user's functions but not their places: files count by content."""
        fields = super().identity() | {"grader": self.grader.rpartition("/")[2]}
        return fields | ({"checker": self.checker.rpartition("/")[2]} if self.checker else {})

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        greedy = values.get("temperature") in (0, 0.0) and "samples_per_prompt" not in values
        once = {"samples_per_prompt": 1} if greedy else {}  # all samples would be the same
        return _with_tuples(_with_answer(_with_known(values | once)))

    @model_validator(mode="after")
    def _rules_are_of_programs(self):
        rules = ("float_tolerance", "any_order", "ignore_case", "checker")
        given = [name for name in rules if getattr(self, name)]
        if given and self.grader != "code":
            raise ValueError(f"{given[0]} is a rule for programs; it needs grader = 'code'")
        if self.checker and len(given) > 1:
            raise ValueError(f"checker decides alone; {given[0]} has no effect")
        return self

    @model_validator(mode="after")
    def _grader_has_an_answer(self):
        if self.grader in COMPARING and self.problems.answer_field is None:
            raise ValueError(
                f"benchmark {self.name!r}: grader = {self.grader!r} compares with an answer; "
                "set problems.answer_field"
            )
        return self


def _with_answer(values: dict[str, Any]) -> dict[str, Any]:
    """With the usual name of the field of answers, where the grader needs one and none is named."""
    problems = values.get("problems")
    if values.get("grader", "math") not in COMPARING or not isinstance(problems, dict):
        return values
    return values | {"problems": {"answer_field": "answer"} | problems}


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
    known = tomllib.loads(files("leyden.recipe").joinpath("benchmarks.toml").read_text())
    common = known.pop("common")
    for values in known.values():
        problems = values["problems"]
        problems["instruction"] = common.get(problems["instruction"], problems["instruction"])
    return known


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Turn the lists of TOML and JSON into the tuples that the types ask for."""
    problems = values.get("problems")
    if not isinstance(problems, dict):
        return values
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in problems.items()}
    return values | {"problems": tuples}


class SandboxLimits(Section):
    """The limits of one tested program, and where it runs."""

    image: str = Field(default="python:3.11-slim", json_schema_extra=WHERE)
    """For docker and podman, which run where bubblewrap does not: an image that is already here."""
    cpu_seconds: Count = 10
    """CPU time over all its processes; per test case, where cases are run one by one."""
    wall_seconds: Positive = 30.0
    """Time on the clock for the same."""
    memory_mb: Count = 2048
    """Memory over all its processes."""
    processes: Count = 64
    """Processes and threads at a time."""


class Evaluate(Section):
    """Stage 6: every model answers the same problems."""

    benchmarks: tuple[Benchmark, ...] = ()
    """Each ``[[evaluate.benchmarks]]``."""
    samples: Count | None = Field(default=None, json_schema_extra=WHERE)
    """At most so many samples of a problem in every benchmark: fewer until the last run. The
    benchmarks' own ``samples_per_prompt`` become what is sampled."""
    keep: str | None = Field(default=None, json_schema_extra=WHERE)
    """A folder in which finished evaluations are kept, for other runs that evaluate the same model
    on the same problems with the same settings: the teacher and the base, above all."""
    sandbox: SandboxLimits = SandboxLimits()
    """Limits of tested programs."""
    allow_unsandboxed_code: bool = Field(default=False, json_schema_extra=WHERE)
    """Run programs of models without a sandbox where none works. Only for a machine that is thrown
    away afterwards."""
    graders: Size = Field(default=0, json_schema_extra=WHERE)
    """Completions graded at the same time; 0 = one per CPU."""
    kl_prompts: Size = 0
    """Held-out prompts on whose fresh rollouts reverse KL to the teacher is measured; 0 = none."""
    kl_max_new_tokens: Count = 256
    """Length cap of those rollouts."""

    @model_validator(mode="after")
    def _names_differ(self):
        names = [b.name for b in self.benchmarks]
        if len(set(names)) < len(names):
            raise ValueError(f"benchmark names must differ; got {names}")
        return self

    @model_validator(mode="after")
    def _samples_are_at_most(self):
        if self.samples is not None:
            asked = tuple(
                b.model_copy(update={"samples_per_prompt": min(self.samples, b.samples_per_prompt)})
                for b in self.benchmarks
            )
            self.__dict__["benchmarks"] = asked  # a section is frozen once it is whole
        return self


def problem_files(settings: Evaluate) -> dict[str, tuple[str, ...]]:
    """Local files of problems: what they are -> their places."""
    return {f"problems of {b.name}": p for b in settings.benchmarks if (p := b.problems.places)}


def grader_files(settings: Evaluate) -> dict[str, tuple[str, ...]]:
    """Files that hold graders or checkers of the user's: what each is -> its path."""
    return {what: (path,) for b in settings.benchmarks for what, path in b.own_files.items()}
