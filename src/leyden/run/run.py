"""A run: its folder, its recipe, and the tools that its stages work with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden.engines.base import Engine, EngineSpec, OpenEngine, Role
from leyden.engines.open import open_engine, open_reference
from leyden.errors import EngineError, StoreError
from leyden.models.hub import model_folder
from leyden.recipe.engines import EngineChoice
from leyden.recipe.schema import Recipe
from leyden.recipe.toml import load_recipe
from leyden.recipe.training import Objective
from leyden.run.layout import MODEL, RECIPE
from leyden.run.stage import SFT, Job, distill
from leyden.telemetry.progress import Progress, silent

TEACHER, SFT_TEACHER, BASE, REFERENCE = "teacher", "sft_teacher", "base", "reference"


def evaluated(recipe: Recipe) -> list[str]:
    """The models that a recipe evaluates, arms last."""
    return [TEACHER, BASE, REFERENCE, *recipe.distill.resolved_arms()]


@dataclass(frozen=True)
class Run:
    """A run's folder and recipe, and the tools that its stages use. Nothing here reads a record.

    ``progress`` shows how far a stage is. ``open_engine`` opens what samples and scores. Without
    ``weights`` only the small files of Hub models are fetched: enough to render prompts.
    """

    root: Path
    recipe: Recipe
    progress: Progress = silent
    open_engine: OpenEngine = open_engine
    weights: bool = True

    @classmethod
    def open(cls, root: Path, progress: Progress = silent) -> "Run":
        """The run in the folder ``root``. Raises StoreError where there is none."""
        if not (root / RECIPE).is_file():
            raise StoreError(
                f"{root}: is not a run folder, it has no {RECIPE}",
                hint="give the folder that `leyden run` made",
            )
        return cls(root, load_recipe(root / RECIPE), progress)

    def folder(self, job: Job) -> Path:
        """The folder of the job's artifact."""
        return self.root / str(job)

    def arms(self) -> dict[str, Objective]:
        """Arm -> its complete settings."""
        return self.recipe.distill.resolved_arms()

    def models(self) -> list[str]:
        """The models that are evaluated, arms last."""
        return evaluated(self.recipe)

    def place(self, model: str) -> Path:
        """The folder of a model: teacher, sft_teacher, base, reference or an arm's name.

        A model of the Hub is fetched. Raises EngineError where it cannot be had.
        """
        address = self._outside(model)
        return model_folder(address, weights=self.weights) if address else self._made(model)

    def is_local(self, model: str) -> bool:
        """Whether the model is a folder of this machine, and not one of the Hub."""
        return Path(self.address(model)).expanduser().is_dir()

    def address(self, model: str) -> str:
        """The place of a model: a folder, or a Hub id. Nothing is fetched."""
        return self._outside(model) or str(self._made(model).absolute())

    def _outside(self, model: str) -> str | None:
        models = self.recipe.models
        written_by = models.sft_teacher or models.reference_teacher or models.teacher
        return {
            TEACHER: models.teacher,
            SFT_TEACHER: written_by,
            BASE: models.base,
            REFERENCE: models.reference,
        }.get(model)

    def _made(self, model: str) -> Path:
        job = SFT if model == REFERENCE else distill(model)
        return self.folder(job) / MODEL

    def has(self, model: str) -> bool:
        """Whether the model is on this machine, or to be had from the Hub."""
        try:
            return self.place(model).is_dir()
        except EngineError:
            return False

    def engine(self, role: Role, model: str, vocab_size: int | None = None) -> Engine:
        """The engine that plays ``role`` with ``model``. It loads the model on first use."""
        return self.open_engine(self.spec(role, model, vocab_size))

    def spec(self, role: Role, model: str, vocab_size: int | None = None) -> EngineSpec:
        """The spec of the engine that plays ``role`` with ``model``."""
        return EngineSpec(
            role, self.address(model), self.recipe.execution, vocab_size, self._choice(role)
        )

    def _choice(self, role: Role) -> EngineChoice:
        choices = {"teacher": self.recipe.engines.teacher, "student": self.recipe.engines.student}
        return choices.get(role, EngineChoice())

    def numerics(self, role: Role) -> dict[str, Any]:
        """Names and values that decide how the engine of ``role`` rounds, for any model."""
        spec = EngineSpec(role, "", self.recipe.execution, choice=self._choice(role))
        opened = open_reference(spec) if role == "reference" else self.open_engine(spec)
        return opened.numerics()
