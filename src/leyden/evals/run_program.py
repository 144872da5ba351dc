"""Programs for graders of the user's: run in the same sandbox as those of benchmarks."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from leyden.errors import EngineError
from leyden.evals.grade_workers import code_backend, program_limits
from leyden.evals.programs import MACHINE, describe
from leyden.recipe.benchmarks import Evaluate
from leyden.sandbox.client import Limits, Sandbox


@dataclass(frozen=True)
class ProgramRun:
    """A program's ``output`` on its standard output, and ``why`` it did not finish; empty if it
    did. ``seconds`` are CPU time."""

    output: str
    why: str
    seconds: float

    @property
    def finished(self) -> bool:
        return not self.why


@dataclass
class _Place:
    """A sandbox that is started when the first program comes."""

    settings: Evaluate
    sandbox: Sandbox | None = None

    def opened(self) -> tuple[Sandbox, Limits]:
        self.sandbox = self.sandbox or Sandbox(code_backend(self.settings))
        return self.sandbox, program_limits(self.settings.sandbox)


_place: ContextVar[_Place | None] = ContextVar("place", default=None)


def run_program(program: str, stdin: str = "") -> ProgramRun:
    """Run a Python program in the sandbox, within the recipe's limits; for graders of your own.

    Raises EngineError where the machine, and not the program, is at fault, and ConfigError where no
    sandbox works here.
    """
    with _placed(_place.get()) as (sandbox, limits):
        job = {"kind": "script", "program": program, "stdin": stdin, "prelude": ""}
        ended = sandbox.run(job, limits)
    if ended.how in MACHINE:
        raise EngineError(
            f"a program could not be run: {describe(ended, limits)}", hint="free some memory"
        )
    why = "" if ended.how == "done" else describe(ended, limits)
    return ProgramRun(ended.output, why, ended.cpu_seconds)


@contextmanager
def _placed(place: _Place | None) -> Iterator[tuple[Sandbox, Limits]]:
    if place is not None:
        yield place.opened()
        return
    with sandbox_for_graders(Evaluate()) as own:  # outside of a grading, as when one is tried out
        yield own.opened()


@contextmanager
def sandbox_for_graders(settings: Evaluate) -> Iterator[_Place]:
    """Let ``run_program`` use one sandbox, with the limits of ``settings``, in this block."""
    place = _Place(settings)
    token = _place.set(place)
    try:
        yield place
    finally:
        _place.reset(token)
        if place.sandbox is not None:
            place.sandbox.close()
