"""Teacher answers as SFT sequences; those cut at the length cap are dropped, and counted."""

from dataclasses import dataclass

from leyden.data.scores import sequence_of
from leyden.data.sequences import TokenSequence
from leyden.errors import StoreError
from leyden.store.reader import Store


@dataclass(frozen=True)
class Answers:
    """The finished answers of ``rows``; ``num_dropped`` had no stop token."""

    store: Store
    rows: tuple[int, ...]
    num_dropped: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TokenSequence:
        return sequence_of(self.store[self.rows[index]])


def select_answers(store: Store, split: str, *, keep_truncated: bool = False) -> Answers:
    """Answers of ``split``; those without a stop token are dropped unless ``keep_truncated``."""
    reasons = store.values("finish_reason")
    rows = [i for i, s in enumerate(store.values("split")) if s == split]
    kept = tuple(i for i in rows if keep_truncated or reasons[i] == "stop")
    if rows and not kept:
        raise StoreError(
            f"{store.folder}: all {len(rows)} answers of {split} were cut at the length cap",
            hint="raise teach.max_new_tokens, or check template.stop_tokens, or sft.keep_truncated",
        )
    return Answers(store, kept, len(rows) - len(kept))
