"""Open the engine of a role. This imports no torch and loads no model."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from leyden.engines.base import Engine, EngineSpec
from leyden.engines.server import ServerEngine
from leyden.engines.transformers import TransformersEngine
from leyden.engines.vllm import VllmEngine
from leyden.recipe.schema import Execution

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def open_engine(spec: EngineSpec) -> Engine:
    """The engine for ``spec.role``, of the kind that the recipe chose for it."""
    kinds: dict[str, Callable[[EngineSpec], Engine]] = {
        "transformers": TransformersEngine,
        "vllm": VllmEngine,
        "server": ServerEngine,
    }
    return kinds[spec.choice.kind](spec)


def open_reference(spec: EngineSpec) -> Engine:
    """The reference policy, scored by the trainer's own forward, whatever engine plays the teacher.

    Before the first step the ratio of student and reference is then 1, up to the rounding of
    batches of different shapes.
    """
    return TransformersEngine(replace(spec, role="reference"))


def open_student(
    model: "PreTrainedModel", execution: Execution, vocab_size: int | None = None
) -> Engine:
    """The student in training, sampled in this process with its weights as they are."""
    return TransformersEngine.around(model, execution, vocab_size)
