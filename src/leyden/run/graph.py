"""A run's jobs as their records stand: ``resolve(run)``.

The graph answers what each job is made from, whether it has finished, and what it would be made
from now. Every record, intent and model identity is read at most once. A graph is a snapshot: after
a job has run, resolve the run again.
"""

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from leyden.data.prompt_set import check_prompt_set
from leyden.data.sources import hash_data
from leyden.errors import ConfigError, StoreError
from leyden.provenance.identity import ModelIdentity, identify_model
from leyden.provenance.records import (
    Intent,
    Numerics,
    Record,
    package_versions,
    read_intent,
    read_record,
    require_same,
    unfinished,
)
from leyden.recipe.schema import Execution
from leyden.run import table
from leyden.run.layout import MODEL
from leyden.run.run import Run
from leyden.run.stage import Artifact, Job, Stage

T = TypeVar("T")


@dataclass(frozen=True)
class Graph:
    """The jobs of ``run`` in an order in which each finds what it reads."""

    run: Run
    jobs: tuple[Job, ...]
    _known: dict[tuple[str, Hashable], Any] = field(default_factory=dict, compare=False, repr=False)

    def _once(self, what: str, key: Hashable, find: Callable[[], T]) -> T:
        if (what, key) not in self._known:
            self._known[what, key] = find()
        return self._known[what, key]

    # What the recipe says of a job.

    def stage(self, job: Job) -> Stage:
        """The row of the stage table that makes ``job``."""
        return table.STAGES[job.stage]

    def folder(self, job: Job) -> Path:
        """The folder of the job's artifact."""
        return self.run.folder(job)

    def parents(self, job: Job) -> list[Job]:
        """The jobs whose artifacts ``job`` reads."""
        return list(self.stage(job).parents(self.run.recipe, job.name))

    def outside_models(self, job: Job) -> list[str]:
        """Roles of the models that ``job`` uses and the run did not make."""
        return list(self.stage(job).models(self.run.recipe, job.name))

    def of_stage(self, name: str) -> list[Job]:
        """All jobs of a stage, in order."""
        return [job for job in self.jobs if job.stage == name]

    def named(self, name: str) -> list[Job]:
        """The jobs that a user means: one job, or all jobs of a stage. Raises ConfigError."""
        named = [job for job in self.jobs if name in (str(job), job.stage)]
        if not named:
            known = sorted({text for job in self.jobs for text in (str(job), job.stage)})
            raise ConfigError(f"{name}: no such stage or job", hint=f"one of {', '.join(known)}")
        return named

    def descendants(self, jobs: Collection[Job]) -> list[Job]:
        """``jobs`` and every job made from them, in order."""
        reached: set[Job] = set(jobs)
        for job in self.jobs:
            if reached & set(self.parents(job)):
                reached.add(job)
        return [job for job in self.jobs if job in reached]

    # What is on disk.

    def record(self, job: Job) -> Record | None:
        """The record of a finished job, else None."""
        return self._once("record", job, lambda: read_record(self.folder(job)))

    def begun(self, job: Job) -> Intent | None:
        """The intent of a job that was begun, else None."""
        return self._once("intent", job, lambda: read_intent(self.folder(job)))

    def finished(self, job: Job) -> bool:
        """Whether the job has a record."""
        return self.record(job) is not None

    def require(self, job: Job, *, reader: object = "this command") -> Record:
        """The record of ``job``. Raises StoreError, naming the ``reader``, where it is unfinished.

        A job that the recipe does without may still have been finished before.
        """
        record = self.record(job)
        if record is None:
            raise unfinished(self.folder(job), reader)
        return record

    def identity(self, model: str) -> ModelIdentity:
        """The identity of a model of the run, by its role or its arm."""
        place = self.run.place(model)  # two roles may be one model
        return self._once("model", place, lambda: identify_model(place))

    def fingerprint(self, job: Job, *, reader: object = "this command") -> str:
        """The recorded fingerprint of a finished job. Its models and prompts must still be what
        the record says. Stores are checked when they are opened."""
        record = self.require(job, reader=reader)
        self._once("content", job, lambda: self._check_content(job, record))
        return record.fingerprint

    def _check_content(self, job: Job, record: Record) -> None:
        folder, kind = self.folder(job), self.stage(job).artifact
        if kind == Artifact.PROMPTS:
            check_prompt_set(folder, record.fingerprint)
        if kind == Artifact.MODEL:
            if not (folder / MODEL).is_dir():
                raise StoreError(
                    f"{folder / MODEL}: the model is gone",
                    hint=f"`leyden run RECIPE --redo {job}`",
                )
            self._check_model(job, record)

    def _check_model(self, job: Job, record: Record) -> None:
        """Raise a StoreError with the parts of the model that are no longer as recorded."""
        made, parts = self.model_made(job), record.facts.get("parts")
        place = self.folder(job) / MODEL
        if made.digest != record.fingerprint and parts:
            changed = made.differences(ModelIdentity(record.fingerprint, parts))
            raise StoreError(
                f"{place}: its {', '.join(changed)} changed since {job} was finished",
                hint=f"restore it from a copy, or `leyden run RECIPE --redo {job}`",
            )
        require_same(place, made.digest, record.fingerprint)

    def model_made(self, job: Job) -> ModelIdentity:
        """The identity of the model that a training job left."""
        return self._once("made", job, lambda: identify_model(self.folder(job) / MODEL))

    # What a job would be made from now.

    def intent(self, job: Job, *, finished: Intent | None = None) -> Intent:
        """Everything that decides the artifact of ``job``. Its parents must be finished.

        A model or file that is gone counts as what ``finished``, the job's own intent, says of it.
        """
        stage, recipe = self.stage(job), self.run.recipe
        inputs = {str(p): self.fingerprint(p, reader=job) for p in self.parents(job)}
        files = {name: hash_data(*places) for name, places in stage.files(recipe).items()}
        # A missing file is reported by the stage that reads it.
        inputs |= {name: digest for name, digest in files.items() if digest}
        models = {
            role: self.identity(role)
            for role in self.outside_models(job)
            if finished is None or role not in finished.models or self.run.has(role)
        }
        if finished is not None:
            inputs, models = finished.inputs | inputs, finished.models | models
        settings = stage.settings(recipe, job.name, self.record(job))
        return Intent(str(job), settings, inputs, models, self.numerics(job))

    def numerics(self, job: Job) -> dict[str, Numerics]:
        """Role, or ``trainer`` -> what changes how the job's numbers round, and nothing else."""
        stage, recipe = self.stage(job), self.run.recipe
        trainer = {"trainer": trainer_numerics(recipe.execution)} if stage.trains else {}
        roles = stage.engines(recipe, job.name)
        return trainer | {role: self.run.numerics(role) for role in roles}

    def splits(self, job: Job) -> list[str]:
        """The prompts that ``job`` samples completions for."""
        return list(self.stage(job).splits(self.run.recipe, self.record(job)))


def resolve(run: Run) -> Graph:
    """The jobs of the run's recipe. Records are read when they are first asked for."""
    jobs = [
        Job(stage.name, name) for stage in table.STAGES.values() for name in stage.names(run.recipe)
    ]
    return Graph(run, tuple(jobs))


def trainer_numerics(execution: Execution) -> Numerics:
    """Names and values that change how the trainer's own forward and backward round."""
    versions = package_versions("torch", "transformers")
    dtype, ranks = execution.dtype, execution.ranks
    layout = execution.layout
    return {
        "engine": "transformers", "dtype": dtype, "layout": layout, "ranks": ranks, **versions
    }  # fmt: skip
