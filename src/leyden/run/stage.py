"""The vocabulary of the stage table: a job, the kinds of artifact, and a stage."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from leyden.engines.base import Ability, Role
from leyden.provenance.records import Record
from leyden.recipe.schema import Recipe


@dataclass(frozen=True)
class Job:
    """One artifact of a run: a stage, and the arm or model where a stage makes one for each.

    Its text, such as ``distill/topk_tail``, is also its folder in the run.
    """

    stage: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.stage}/{self.name}" if self.name else self.stage

    @classmethod
    def parse(cls, text: str) -> "Job":
        """The job that is written ``text``; the only place where such a text is cut."""
        stage, _, name = text.partition("/")
        return cls(stage, name)


PROMPTS, PROBLEMS = Job("prompts"), Job("problems")
TEACH, SFT, ROLLOUT, SCORE = Job("teach"), Job("sft"), Job("rollout"), Job("score")
DISTILL, EVALUATE = "distill", "evaluate"


def distill(arm: str) -> Job:
    """The job that trains the student of an arm."""
    return Job(DISTILL, arm)


def evaluate(model: str) -> Job:
    """The job that evaluates a model: teacher, base, reference or an arm."""
    return Job(EVALUATE, model)


class Artifact(StrEnum):
    """The kinds of artifact. Whoever opens or checks an artifact goes by its kind."""

    PROMPTS = "prompts"
    COMPLETIONS = "completions"
    SCORES = "scores"
    MODEL = "model"
    RESULTS = "results"


@dataclass(frozen=True)
class Stage:
    """One row of the stage table: all that the rest of the program knows about a stage.

    Functions of ``(recipe, name)`` get the job's name, empty where the stage has one job. Functions
    of ``record`` get the job's own record, None until it has finished.
    """

    name: str
    title: str
    """A sentence for help pages."""
    artifact: Artifact
    runs: str
    """``module:function`` that makes the artifact: (graph, intent) -> record."""
    parents: Callable[[Recipe, str], Sequence[Job]]
    """The jobs whose artifacts it reads."""
    settings: Callable[[Recipe, str, Record | None], dict[str, Any]]
    """The fields of the recipe that decide its artifact, as JSON values."""
    names: Callable[[Recipe], Sequence[str]] = lambda recipe: ("",)
    """One job for each name; none where the recipe does without the stage."""
    models: Callable[[Recipe, str], Sequence[str]] = lambda recipe, name: ()
    """Roles of the models that it uses and the run did not make."""
    engines: Callable[[Recipe, str], Sequence[Role]] = lambda recipe, name: ()
    """Roles of the engines that it opens."""
    abilities: Callable[[Recipe, str], Sequence[Ability]] = lambda recipe, name: ()
    """What it needs of these engines."""
    files: Callable[[Recipe], Mapping[str, Sequence[str]]] = lambda recipe: {}
    """Files outside the run whose content it depends on: what they are -> their places."""
    splits: Callable[[Recipe, Record | None], Sequence[str]] = lambda recipe, record: ()
    """The prompts that it samples completions for."""
    helps: str = ""
    """``module:function`` that does a part of the work beside the process that leads the job:
    (graph, intent, leader) -> nothing. Empty where one process does it all."""
    trains: bool = False
    """Whether it trains, perhaps in several processes."""
    checks: str = ""
    """``module:function`` of (graph, intent) that must pass before the job begins."""
    survives_new_author: bool = False
    """Whether the finished artifact stays as it is when the model that made it changes. The
    one-teacher rule then judges that model."""

    def function(self) -> Callable[..., Record]:
        """Import the stage's function. Only now are its libraries loaded."""
        return _imported(self.runs)

    def helper(self) -> Callable[..., None]:
        """Import the function that helps."""
        return _imported(self.helps)

    def check(self, *arguments: Any) -> None:
        """Raise what the function named by ``checks`` raises."""
        if self.checks:
            _imported(self.checks)(*arguments)


def _imported(place: str) -> Callable[..., Any]:
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function)
