"""Progress of a stage: two protocols, and a progress that shows nothing."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Advance(Protocol):
    """Tells that ``amount`` more is done. ``note`` is shown beside it."""

    def __call__(self, amount: int, note: str = "", /) -> None: ...


class Progress(Protocol):
    """Shows how far a stage is; ``unit`` is what the callback counts."""

    def __call__(self, name: str, total: int, unit: str) -> AbstractContextManager[Advance]: ...


def silent(name: str, total: int, unit: str) -> AbstractContextManager[Advance]:
    """Show nothing."""
    return nullcontext(lambda amount, note="": None)
