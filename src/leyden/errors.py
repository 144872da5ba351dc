"""The errors a user can cause: one sentence saying what was found and where, and a hint."""


def first_line(error: BaseException) -> str:
    """What another library's error says first, for a sentence of ours."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class LeydenError(Exception):
    """Something the user can mend. ``str()`` is the sentence; ``hint`` is what to do about it."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


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
