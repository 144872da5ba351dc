"""Open the engine of a role. This imports no torch and loads no model."""

from dataclasses import replace

from leyden.engines.base import Engine, EngineSpec
from leyden.engines.transformers import TransformersEngine


def open_engine(spec: EngineSpec) -> Engine:
    """The engine for ``spec.role``. Transformers plays every role so far."""
    return TransformersEngine(spec)


def open_reference(spec: EngineSpec) -> Engine:
    """The reference policy, scored by the trainer's own forward.

    So it is whichever engine scores the teacher: the ratio of student and reference is then 1, to
    the bit, before the first step.
    """
    return TransformersEngine(replace(spec, role="reference"))
