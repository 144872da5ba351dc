"""One prompt with its completion, as NumPy arrays; torch stays out."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class TokenSequence:
    """A prompt with its completion. ``columns`` have one entry (or K) per completion token."""

    prompt_ids: np.ndarray
    completion_ids: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)
