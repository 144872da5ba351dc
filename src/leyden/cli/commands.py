"""The commands, one dataclass each: fields are arguments, ``run`` does it.

Each command imports what it needs when it runs, so that `leyden --help` is quick.
"""

import json
from dataclasses import asdict, dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from leyden.cli import screen
from leyden.errors import ConfigError
from leyden.models.hub import model_folder
from leyden.recipe.schema import Recipe
from leyden.recipe.toml import load_evaluation, load_recipe, parse_overrides
from leyden.run.graph import resolve
from leyden.run.layout import RECIPE, RUNS
from leyden.run.run import Run
from leyden.run.stage import EVALUATE, Artifact
from leyden.run.table import STAGES

Place = Annotated[Path, tyro.conf.Positional]
RunFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True)
class RunRecipe:
    """Run a whole recipe: skip finished jobs, resume broken ones. Recipe fields are set with
    ``--section.field VALUE``."""

    recipe: Place
    """A TOML recipe."""
    out: Path | None = None
    """The run's folder; runs/NAME by default."""
    redo: tuple[str, ...] = ()
    """Jobs (distill/NAME) or stages (distill) to make again, with all that follows; their old
    artifacts move to superseded/."""
    until: str | None = None
    """Stop after this stage or job."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Say what would be done."""

    def run(self, fields: list[str]) -> None:
        from leyden.monitor.status import run_status
        from leyden.pipeline.pipeline import run_recipe

        recipe = load_recipe(self.recipe, parse_overrides(fields))
        run = Run(self.out or RUNS / recipe.name, recipe, screen.progress)
        if self.dry_run:
            from leyden.pipeline.plan import planned

            screen.print_plan(planned(run, redo=self.redo, until=self.until))
            return
        run_recipe(run, redo=self.redo, until=self.until, announce=screen.announce)
        screen.print_status(run_status(resolve(run)))
        if self.until is None:
            screen.write_report([run.root], None)


@dataclass(frozen=True)
class Init:
    """Write a first recipe, with comments: fields, lengths and batch sizes come from the models'
    configs and the prompts."""

    teacher: str
    """The teacher: a folder or a Hub id."""
    student: str
    """The student before any training, of the same family."""
    prompts: tuple[Path, ...]
    """A file of prompts, which is cut in two; or one for SFT and one for distillation."""
    out: Path = Path("recipe.toml")
    """The recipe to write."""

    def run(self) -> None:
        from leyden.pipeline.new_recipe import write_first_recipe

        write_first_recipe(self.teacher, self.student, self.prompts, self.out)
        screen.print_line(f"recipe: {self.out}\nnext: leyden run {self.out} --dry-run")


@dataclass(frozen=True)
class _StageOfRun:
    """One stage of a run folder."""

    run_folder: RunFolder
    """The folder that `leyden run` made."""

    def run(self) -> None:
        run_stage(self.run_folder, type(self).__name__)


def stage_command(name: str) -> type:
    """The command that runs the stage ``name`` of a run folder."""
    command = make_dataclass(name, [], bases=(_StageOfRun,), frozen=True)
    command.__doc__ = STAGES[name].title
    return command


def run_stage(folder: Path, name: str) -> None:
    """All jobs of one stage of the run in ``folder``, and the prompts that they need."""
    from leyden.pipeline.pipeline import run_jobs

    run = Run.open(folder, screen.progress)
    graph = resolve(run)
    jobs = graph.of_stage(name)
    if not jobs:
        raise ConfigError(f"{run.root}: its recipe has no stage {name}", hint="see its recipe.toml")
    rendered = {
        parent
        for job in jobs
        for parent in graph.parents(job)
        if graph.stage(parent).artifact == Artifact.PROMPTS
    }
    first = [job for job in graph.jobs if job in rendered]
    run_jobs(run, [*first, *jobs], announce=screen.announce)


@dataclass(frozen=True)
class Work:
    """Help with a stage that samples or scores, beside other processes that see the run's folder;
    also as the first of them. Ends when the stage is finished."""

    run_folder: tyro.conf.Positional[Path]
    """The folder that `leyden run` made."""
    stage: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STAGE")]
    """teach, rollout, score, evaluate, or one job such as evaluate/teacher."""

    def run(self) -> None:
        from leyden.pipeline.pipeline import work_on

        work_on(Run.open(self.run_folder, screen.progress), self.stage, announce=screen.announce)


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
    """For a model: the first n problems of each benchmark."""
    max_new_tokens: int | None = None
    """For a model: length cap, instead of each benchmark's own."""
    temperature: float | None = None
    """For a model: softmax temperature, 0.6 by default; 0 = the likeliest token every time."""
    out: Path | None = None
    """For a model: where to keep samples, grades and results; evaluations/... by default."""

    def run(self, fields: list[str]) -> None:
        if (Path(self.place) / RECIPE).is_file():
            self._run_stage(fields)
            return
        values = {
            "model": self.place,
            "evaluate": {"benchmarks": [self._benchmark(text) for text in self.benchmarks]},
        }
        from leyden.evals.results import read_results
        from leyden.pipeline.evaluate_model import evaluate_model

        settings = load_evaluation(values, parse_overrides(fields))
        folder = evaluate_model(settings, self.out, screen.progress)
        screen.print_results(read_results(folder))
        screen.print_line(f"samples, grades and results: {folder}")
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
        from leyden.evals.own_files import benchmark_values

        values = benchmark_values(text, screen.print_line)
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
        from leyden.evals.results import compare_folders

        comparisons = compare_folders(self.first, self.second)
        if self.json:
            screen.print_json({name: asdict(one) for name, one in comparisons.items()})
        else:
            screen.print_comparison(comparisons, str(self.first), str(self.second))


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
        from leyden.evals.overlap import check_overlap

        sources = check_overlap(self.prompts, self.benchmarks, self.prompt_field)
        if self.json:
            screen.print_json([asdict(source) for source in sources])
        else:
            screen.print_overlaps(sources)


@dataclass(frozen=True)
class Status:
    """Stages, rows, tokens, device time and results of a run."""

    run_folder: RunFolder
    """The folder that `leyden run` made."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Machine-readable."""

    def run(self) -> None:
        from leyden.monitor.status import run_status

        status = run_status(resolve(Run.open(self.run_folder)))
        if self.json:
            screen.print_json(status.as_json())
        else:
            screen.print_status(status)


@dataclass(frozen=True)
class Show:
    """One completion, its tokens, and the teacher's judgement of each."""

    run_folder: RunFolder
    """The folder that `leyden run` made."""
    stage: Annotated[str, tyro.conf.Positional]
    """teach, rollout or score."""
    row: Annotated[int, tyro.conf.Positional]
    """Row number, from 0."""

    def run(self) -> None:
        from leyden.monitor.show import show_row

        screen.print_row(show_row(resolve(Run.open(self.run_folder)), self.stage, self.row))


@dataclass(frozen=True)
class Verify:
    """Check hashes, alignment, lineage and the one-teacher rule of a run."""

    run_folder: RunFolder
    """The folder that `leyden run` made."""
    repair: tyro.conf.FlagCreatePairsOff[bool] = False
    """First make damaged units of stores again, and damaged grades and results; their files move
    to superseded/."""

    def run(self) -> None:
        from leyden.pipeline.repair import repair_run
        from leyden.pipeline.verify import verify_run

        if self.repair:
            for sentence in repair_run(Run.open(self.run_folder, screen.progress)):
                screen.print_line(sentence)
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
    """The file to write; RUN/report.html by default."""

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
        from leyden.provenance.identity import identify_model

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
        from leyden.provenance.identity import fingerprint

        recipe = load_recipe(self.recipe, parse_overrides(fields))
        screen.print_json(
            {
                "fingerprint": fingerprint(recipe.identity()),
                "recipe": json.loads(recipe.model_dump_json()),
            }
        )
