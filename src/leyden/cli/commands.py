"""The commands, one dataclass each: fields are arguments, ``run`` does it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from leyden.cli import screen
from leyden.errors import ConfigError
from leyden.evals.overlap import check_overlap
from leyden.evals.problems import benchmark_values
from leyden.evals.results import compare_folders, read_scores
from leyden.models.hub import model_folder
from leyden.monitor.status import run_status
from leyden.pipeline.pipeline import planned, run_jobs, run_recipe
from leyden.pipeline.verify import verify_run
from leyden.provenance.identity import fingerprint, identify_model
from leyden.recipe.schema import Recipe
from leyden.recipe.toml import load_evaluation, load_recipe, parse_overrides
from leyden.run.run import EVALUATE, PROBLEMS, PROMPTS, RECIPE, Run

Place = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True)
class RunRecipe:
    """Run a whole recipe: skip what is done, resume what is not. Recipe fields are set with
    ``--section.field VALUE``."""

    recipe: Place
    """A TOML recipe."""
    out: Path | None = None
    """The run's folder; runs/NAME by default."""
    redo: tuple[str, ...] = ()
    """Jobs (distill/NAME) or stages (distill) to make again, with all that follows; what was there
    moves to superseded/."""
    until: str | None = None
    """Stop after this stage or job."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Say what would be done."""

    def run(self, fields: list[str]) -> None:
        recipe = load_recipe(self.recipe, parse_overrides(fields))
        run = Run(self.out or Path("runs") / recipe.name, recipe, screen.progress)
        known = {name for job in run.jobs() for name in (job, job.partition("/")[0])}
        for name in (*self.redo, *([self.until] if self.until else [])):
            if name not in known:
                raise ConfigError(
                    f"{name}: no such stage or job", hint=f"one of {', '.join(sorted(known))}"
                )
        if self.dry_run:
            screen.print_plan(planned(run, redo=self.redo, until=self.until))
            return
        run_recipe(run, redo=self.redo, until=self.until, announce=screen.announce)
        screen.print_status(run_status(run))
        if self.until is None:
            screen.write_report([run.root], None)


@dataclass(frozen=True)
class _Stage:
    """One stage of a run folder."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder that `leyden run` made."""

    def run(self) -> None:
        run_stage(self.run_folder, type(self).__name__.lower())


def run_stage(folder: Path, name: str) -> None:
    """All jobs of one stage of the run in ``folder``."""
    run = Run.open(folder, screen.progress)
    jobs = [job for job in run.jobs() if job.partition("/")[0] == name]
    if not jobs:
        raise ConfigError(f"{run.root}: its recipe has no stage {name}", hint="see its recipe.toml")
    first = [PROMPTS] + [job for job in run.jobs() if job == PROBLEMS and name == EVALUATE]
    run_jobs(run, [*first, *jobs], announce=screen.announce)


@dataclass(frozen=True)
class Teach(_Stage):
    """Stage 1: the teacher answers the SFT prompts."""


@dataclass(frozen=True)
class Sft(_Stage):
    """Stage 2: the base model learns the teacher's answers."""


@dataclass(frozen=True)
class Rollout(_Stage):
    """Stage 3: the student answers the OPD prompts."""


@dataclass(frozen=True)
class Score(_Stage):
    """Stage 4: teacher and reference score every token, once."""


@dataclass(frozen=True)
class Distill(_Stage):
    """Stage 5: a student per arm trains on the stored scores."""


@dataclass(frozen=True)
class Evaluate:
    """Stage 6 of a run: every model answers the benchmarks. Or any model by itself: give its folder
    and `--benchmarks`; fields are set as `--template.kind plain --execution.device cuda`."""

    place: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL")]
    """The folder that `leyden run` made; or a model folder, or a Hub id."""
    benchmarks: tuple[str, ...] = ()
    """For a model: names of known benchmarks, NAME=FILE for a local copy of one's file, or a FILE
    of your own (JSON lines with prompt, and answer or tests)."""
    samples: int | None = None
    """For a model: samples of each problem, instead of each benchmark's own number."""
    limit: int | None = None
    """For a model: the first so many problems of each benchmark."""
    max_new_tokens: int | None = None
    """For a model: length cap, instead of each benchmark's own."""
    temperature: float | None = None
    """For a model: softmax temperature, 0.6 by default."""
    out: Path | None = None
    """For a model: where to keep samples, grades and scores; evaluations/... by default."""

    def run(self, fields: list[str]) -> None:
        if (Path(self.place) / RECIPE).is_file():
            self._run_stage(fields)
            return
        values = {
            "model": self.place,
            "evaluate": {"benchmarks": [self._benchmark(text) for text in self.benchmarks]},
        }
        from leyden.pipeline.evaluate_model import evaluate_model

        settings = load_evaluation(values, parse_overrides(fields))
        folder = evaluate_model(settings, self.out, screen.progress)
        screen.print_scores(read_scores(folder))
        screen.print_line(f"samples, grades and scores: {folder}")
        screen.write_report([folder], None)

    def _run_stage(self, fields: list[str]) -> None:
        own = (self.samples, self.limit, self.max_new_tokens, self.temperature, self.out)
        if fields or self.benchmarks or any(value is not None for value in own):
            raise ConfigError(
                f"{self.place} is a run, whose recipe says what is evaluated",
                hint="for other benchmarks: leyden evaluate RUN/distill/ARM/model --benchmarks ...",
            )
        run_stage(Path(self.place), EVALUATE)

    def _benchmark(self, text: str) -> dict[str, Any]:
        values = benchmark_values(text)
        given = {
            "samples_per_prompt": self.samples,
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
        }
        values |= {name: value for name, value in given.items() if value is not None}
        if self.limit is not None:
            values["problems"] = values.get("problems", {}) | {"limit": self.limit}
        return values


@dataclass(frozen=True)
class Compare:
    """Two evaluations of the same problems: the difference, paired, with its 95% interval."""

    first: Place
    """RUN/evaluate/MODEL, or a folder that `leyden evaluate MODEL` made."""
    second: Place
    """The other."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Machine-readable."""

    def run(self) -> None:
        found = compare_folders(self.first, self.second)
        if self.json:
            screen.print_json(found)
        else:
            screen.print_comparison(found, str(self.first), str(self.second))


@dataclass(frozen=True)
class CheckOverlap:
    """Do training prompts hold benchmark problems, exactly or 13 words in a row?"""

    prompts: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE|PROMPTS [PROMPTS ...]")
    ]
    """A recipe (its prompts and benchmarks), or files of prompts."""
    benchmarks: tuple[str, ...] = ()
    """Names of known benchmarks, NAME=FILE for a local copy, or a FILE of your own."""
    prompt_field: str = "prompt"
    """The field that holds the text in the files of prompts."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Machine-readable, with every overlap."""

    def run(self) -> None:
        found = check_overlap(list(self.prompts), list(self.benchmarks), self.prompt_field)
        if self.json:
            screen.print_json(found)
        else:
            screen.print_overlaps(found)


@dataclass(frozen=True)
class Status:
    """Stages, rows, tokens, device time and scores of a run."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder that `leyden run` made."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Machine-readable."""

    def run(self) -> None:
        status = run_status(Run.open(self.run_folder))
        if self.json:
            screen.print_json(status)
        else:
            screen.print_status(status)


@dataclass(frozen=True)
class Show:
    """One completion, its tokens and what the teacher thought of each."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder that `leyden run` made."""
    stage: Annotated[str, tyro.conf.Positional]
    """teach, rollout or score."""
    row: Annotated[int, tyro.conf.Positional]
    """Row number, from 0."""

    def run(self) -> None:
        from leyden.monitor.show import show_row

        screen.print_row(show_row(Run.open(self.run_folder), self.stage, self.row))


@dataclass(frozen=True)
class Verify:
    """Check hashes, alignment, lineage and the one-teacher rule of a run."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder that `leyden run` made."""

    def run(self) -> None:
        for sentence in verify_run(Run.open(self.run_folder)):
            screen.print_line(sentence)


@dataclass(frozen=True)
class Report:
    """One self-contained HTML page about one run, or several side by side; or about evaluations
    that `leyden evaluate MODEL` made."""

    run_folders: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")
    ]
    """Folders that `leyden run` made, or that `leyden evaluate MODEL` made."""
    out: Path | None = None
    """Where to write it; RUN/report.html by default."""

    def run(self) -> None:
        if not self.run_folders:
            raise ConfigError("no run given", hint="leyden report runs/tiny")
        screen.write_report(list(self.run_folders), self.out)


@dataclass(frozen=True)
class Identify:
    """The identity of a model and what went into it."""

    model: Annotated[str, tyro.conf.Positional]
    """A model folder, or a Hub id."""

    def run(self) -> None:
        identity = identify_model(model_folder(self.model))
        screen.print_json({"identity": identity.digest, "parts": identity.parts})


@dataclass(frozen=True)
class Config:
    """The resolved recipe and its fingerprint; fields are set as for `run`."""

    recipe: Annotated[Path | None, tyro.conf.Positional] = None
    """A TOML recipe."""
    schema: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the JSON schema of recipes instead."""

    def run(self, fields: list[str]) -> None:
        if self.schema:
            screen.print_json(Recipe.model_json_schema())
            return
        if self.recipe is None:
            raise ConfigError(
                "no recipe given", hint="leyden config recipes/tiny.toml, or --schema"
            )
        recipe = load_recipe(self.recipe, parse_overrides(fields))
        screen.print_json(
            {
                "fingerprint": fingerprint(recipe.identity()),
                "recipe": json.loads(recipe.model_dump_json()),
            }
        )
