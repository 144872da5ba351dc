"""The commands, one dataclass each: fields are arguments, ``run`` does it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from leyden.cli import screen
from leyden.config import Recipe
from leyden.errors import ConfigError
from leyden.hub import model_folder
from leyden.identity import fingerprint, identify_model
from leyden.pipeline import planned, run_jobs, run_recipe
from leyden.recipe import load_recipe, parse_overrides
from leyden.run import EVALUATE, PROBLEMS, PROMPTS, Run
from leyden.status import run_status
from leyden.verify import verify_run

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
        run = Run.open(self.run_folder, screen.progress)
        name = type(self).__name__.lower()
        jobs = [job for job in run.jobs() if job.partition("/")[0] == name]
        if not jobs:
            raise ConfigError(
                f"{run.root}: its recipe has no stage {name}", hint="see its recipe.toml"
            )
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
class Evaluate(_Stage):
    """Stage 6: every model answers the benchmarks."""


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
        from leyden.show import show_row

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
    """One self-contained HTML page about one run, or several side by side."""

    run_folders: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")
    ]
    """Folders that `leyden run` made."""
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
