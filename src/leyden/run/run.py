"""A run on disk: its recipe, where each artifact lies, and what each is to be made from.

A *job* is one artifact: ``teach``, ``sft``, ``distill/topk``, ``evaluate/base``. Its intent
follows from the recipe, the records of the jobs it reads and the models it uses, without loading
anything.
"""

import importlib.metadata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leyden.errors import EngineError, StoreError
from leyden.models.hub import model_folder
from leyden.provenance.identity import ModelIdentity, hash_file, identify_model
from leyden.provenance.records import Intent, Record, read_record, require_record, require_same
from leyden.recipe.benchmarks import Evaluate
from leyden.recipe.schema import Execution, Recipe
from leyden.recipe.toml import load_recipe
from leyden.recipe.training import Objective
from leyden.telemetry.progress import Progress, silent

RECIPE, RENDERED = "recipe.toml", "rendered.jsonl"
PROMPTS, PROBLEMS = "prompts", "problems"
TEACH, SFT, ROLLOUT, SCORE = "teach", "sft", "rollout", "score"
DISTILL, EVALUATE = "distill", "evaluate"
BENCHMARK = "bench-"  # a benchmark's prompts are the split bench-NAME


@dataclass(frozen=True)
class Run:
    """A run's folder and recipe. ``identities`` caches what each model place was found to be."""

    root: Path
    recipe: Recipe
    progress: Progress = silent
    identities: dict[str, ModelIdentity] = field(default_factory=dict, compare=False)

    @classmethod
    def open(cls, root: Path, progress: Progress = silent) -> "Run":
        if not (root / RECIPE).is_file():
            raise StoreError(
                f"{root}: is not a run folder, it has no {RECIPE}",
                hint="give the folder that `leyden run` made",
            )
        return cls(root, load_recipe(root / RECIPE), progress)

    def folder(self, job: str) -> Path:
        return self.root / job

    def record(self, job: str) -> Record | None:
        return read_record(self.folder(job))

    def arms(self) -> dict[str, Objective]:
        return self.recipe.distill.resolved_arms()

    def jobs(self) -> list[str]:
        """Every job of the recipe, in an order in which each finds what it reads."""
        adopted = self.recipe.models.reference is not None
        first = [PROMPTS, *self._problems()]  # whatever can be wrong in a file shows at once
        middle = [ROLLOUT, SCORE] if adopted else [TEACH, SFT, ROLLOUT, SCORE]
        arms = [f"{DISTILL}/{arm}" for arm in self.arms()]
        return first + middle + arms + [f"{EVALUATE}/{model}" for model in self.models()]

    def _problems(self) -> list[str]:
        return [PROBLEMS] if self.recipe.evaluate.benchmarks else []

    def models(self) -> list[str]:
        """The models that are evaluated."""
        return ["teacher", "base", "reference", *self.arms()]

    def place(self, model: str) -> Path:
        """The folder of a model: teacher, sft_teacher, base, reference or an arm's name."""
        models = self.recipe.models
        if model == "sft_teacher":
            return model_folder(models.sft_teacher or models.reference_teacher or models.teacher)
        if model in ("teacher", "base"):
            return model_folder(getattr(models, model))
        if model == "reference":
            return (
                model_folder(models.reference) if models.reference else self.folder(SFT) / "model"
            )
        return self.folder(f"{DISTILL}/{model}") / "model"

    def identity(self, model: str) -> ModelIdentity:
        if model not in self.identities:
            self.identities[model] = identify_model(self.place(model))
        return self.identities[model]

    def parents(self, job: str) -> list[str]:
        """The jobs whose artifacts ``job`` reads."""
        stage, _, name = job.partition("/")
        sft = [] if self.recipe.models.reference else [SFT]
        if stage == DISTILL:
            return [PROMPTS, *sft, TEACH if self.arms()[name].objective == "sft" else SCORE]
        if stage == EVALUATE:
            made_by = {"teacher": [], "base": [], "reference": sft}
            return [PROMPTS, *self._problems(), *made_by.get(name, [f"{DISTILL}/{name}"])]
        return {
            PROMPTS: [],
            PROBLEMS: [PROMPTS],
            TEACH: [PROMPTS],
            SFT: [PROMPTS, TEACH],
            ROLLOUT: [PROMPTS, *sft],
            SCORE: [PROMPTS, *sft, ROLLOUT],
        }[stage]

    def descendants(self, *names: str) -> list[str]:
        """The jobs (or all jobs of the stages) ``names`` and every job made from them, in order."""
        found: list[str] = []
        for job in self.jobs():
            asked = job in names or job.partition("/")[0] in names
            if asked or any(parent in found for parent in self.parents(job)):
                found.append(job)
        return found

    def intent(self, job: str, *, finished: Intent | None = None) -> Intent:
        """What ``job`` is to be made from now. Its parents must be finished.

        A model or file that is gone counts as what ``finished``, the job's own intent, says of it.
        """
        inputs = {parent: self._fingerprint(parent, job) for parent in self.parents(job)}
        inputs |= {name: hash_file(path) for name, path in self._files(job).items()}
        models = {
            role: self.identity(role)
            for role in self.outside_models(job)
            if finished is None or role not in finished.models or self.present(role)
        }
        if finished is not None:
            inputs, models = finished.inputs | inputs, finished.models | models
        return Intent(job, self._settings(job), inputs, models, self._numerics(job))

    def _numerics(self, job: str) -> dict[str, Any]:
        """What changes how the job rounds, and nothing else about it."""
        if job in (PROMPTS, PROBLEMS):
            return {}
        execution, trains = self.recipe.execution, job.partition("/")[0] in (SFT, DISTILL)
        return numerics_of(execution) | ({"ranks": execution.ranks} if trains else {})

    def present(self, role: str) -> bool:
        """Whether the model in ``role`` is on this machine."""
        try:
            return self.place(role).is_dir()
        except EngineError:
            return False

    def _fingerprint(self, parent: str, wanted_by: str) -> str:
        """The recorded fingerprint of ``parent``; models and prompts must still be what it says."""
        record = require_record(self.folder(parent), wanted_by=wanted_by)
        if parent in (PROMPTS, PROBLEMS):
            check_prompt_set(self.folder(parent), record.fingerprint)
        if parent.partition("/")[0] in (SFT, DISTILL):
            model = self.folder(parent) / "model"
            if not model.is_dir():
                raise StoreError(
                    f"{model}: the model is gone", hint=f"`leyden run RECIPE --redo {parent}`"
                )
            require_same(model, identify_model(model).digest, record.fingerprint)
        return record.fingerprint

    def outside_models(self, job: str) -> list[str]:
        """Roles of the models that ``job`` uses and the run did not make."""
        stage, _, name = job.partition("/")
        adopted = ["reference"] if self.recipe.models.reference else []
        if stage == EVALUATE:
            own = [name] if name in ("base", *adopted) else []
            return ["teacher", *own]
        if stage == DISTILL:
            return ["teacher", *adopted] if self.arms()[name].refresh_every else adopted
        return {
            PROMPTS: ["sft_teacher"],
            PROBLEMS: [],
            TEACH: ["sft_teacher"],
            SFT: ["base"],
            ROLLOUT: adopted,
            SCORE: ["teacher", *adopted],
        }[stage]

    def rollout_splits(self) -> list[str]:
        """Which prompts are answered for the store: without an arm that trains on it, those that
        are only measured; more than that are not made again."""
        needed = any(arm.reads_scores for arm in self.arms().values())
        if needed or not self.recipe.prompts.heldout:
            return ["opd", "heldout"]
        record = self.record(ROLLOUT)
        return ["heldout"] if record is None else record.intent.settings["splits"]

    def _settings(self, job: str) -> dict:
        stage, _, name = job.partition("/")
        recipe = self.recipe
        if stage == PROMPTS:
            return {"prompts": recipe.prompts.identity(), "template": recipe.template.identity()}
        if stage == PROBLEMS:
            problems = {b.name: b.problems.identity() for b in recipe.evaluate.benchmarks}
            return {"template": recipe.template.identity(), "evaluate.benchmarks": problems}
        if stage == DISTILL:
            arm = self.arms()[name]
            own = {"seed": recipe.seed, f"distill.arms.{name}": arm.identity()}
            live = {"rollout": recipe.rollout.identity(), "score": recipe.score.identity()}
            return own | live if arm.refresh_every else own
        own = {"seed": recipe.seed, stage: getattr(recipe, stage).identity()}
        return own | {"splits": self.rollout_splits()} if stage == ROLLOUT else own

    def _files(self, job: str) -> dict[str, Path]:
        """Files outside the run whose content ``job`` depends on, each with its own name."""
        if job == PROMPTS:
            prompts = self.recipe.prompts
            return _existing({"prompts.sft": prompts.sft.file, "prompts.opd": prompts.opd.file})
        if job == PROBLEMS:
            return problem_files(self.recipe.evaluate)
        return grader_files(self.recipe.evaluate) if job.startswith(EVALUATE) else {}


def problem_files(settings: Evaluate) -> dict[str, Path]:
    """Local files of problems, each with its own name."""
    return _existing({f"problems of {b.name}": b.problems.file or "" for b in settings.benchmarks})


def grader_files(settings: Evaluate) -> dict[str, Path]:
    """Files that hold a grader of the user's."""
    own = {f"grader of {b.name}": b.grader.rpartition(":")[0] for b in settings.benchmarks}
    return _existing(own)


def numerics_of(execution: Execution) -> dict[str, Any]:
    """What changes how a model's numbers round, and nothing else about them."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    return {"dtype": execution.dtype, "engine": "transformers", **versions}


def check_prompt_set(folder: Path, expected: str) -> Path:
    """The file of the rendered prompts; its sha256 must be ``expected``."""
    path = folder / RENDERED
    found = hash_file(path) if path.is_file() else "missing"
    if found != expected:
        raise StoreError(
            f"{path}: the rendered prompts changed: sha256 is {found[:12]}, "
            f"recorded {expected[:12]}",
            hint=f"restore the file, or `leyden run RECIPE --redo {folder.name}`",
        )
    return path


def _existing(files: dict[str, str]) -> dict[str, Path]:
    """A missing file is reported by the stage that reads it."""
    return {name: Path(file) for name, file in files.items() if Path(file).is_file()}
