"""Errors that a user can cause: a sentence with the place and the value, and a hint."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error, for a sentence of ours."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


REDO = "make the stage again with `leyden run RECIPE --redo STAGE`"  # the end of many hints


class LeydenError(Exception):
    """An error that the user can fix. ``str()`` is the sentence; ``hint`` says what to do.

    A traceback shows both.
    """

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint
        self.add_note(f"hint: {hint}")


class ConfigError(LeydenError):
    """A recipe, a flag or a prompt file that cannot be used as it is."""


class StoreError(LeydenError):
    """An artifact on disk that is missing, damaged, unfinished or not the one expected."""


class AlignmentError(LeydenError):
    """Token ids, scores or rows that do not belong to each other."""


class ConsistencyError(LeydenError):
    """Two models or settings that the method requires to be the same and are not."""


class EngineError(LeydenError):
    """A model that cannot be loaded, or a device that cannot run it."""
