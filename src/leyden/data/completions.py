"""Stored completions as SFT sequences; those cut at the length cap are dropped, and counted."""

from dataclasses import dataclass, field

from leyden.data.prompt_set import HELDOUT
from leyden.data.scored import check_ids, sequence_of
from leyden.data.sequences import TokenSequence
from leyden.data.sound import ids_are_sound
from leyden.errors import StoreError
from leyden.store.reader import Store


@dataclass(frozen=True)
class Completions:
    """The completions ``rows`` of a store, to be learnt. ``num_dropped`` had no stop token."""

    store: Store
    rows: tuple[int, ...]
    num_dropped: int
    vocab_size: int
    _passed: dict[int, bool] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TokenSequence:
        row, shard = self.store[self.rows[index]], self.store.shard_of(self.rows[index])
        if shard not in self._passed:
            self._passed[shard] = ids_are_sound(self.store.shards[shard].columns, self.vocab_size)
        if not self._passed[shard]:
            where = f"{self.store.folder}: row {self.rows[index]}"
            check_ids(row, vocab_size=self.vocab_size, where=where)
        return sequence_of(row)


def select_completions(
    store: Store, split: str, *, vocab_size: int, keep_truncated: bool = False
) -> Completions:
    """The completions of ``split``; those without a stop token are dropped unless kept on request.

    Raises StoreError where all were dropped, but of held-out ones, which are only measured.
    """
    reasons = store.values("finish_reason")
    rows = [i for i, s in enumerate(store.values("split")) if s == split]
    kept = tuple(i for i in rows if keep_truncated or reasons[i] == "stop")
    if rows and not kept and split != HELDOUT:
        raise StoreError(
            f"{store.folder}: all {len(rows)} completions of {split} were cut at the length cap",
            hint="raise teach.max_new_tokens, or check template.stop_tokens, or sft.keep_truncated",
        )
    return Completions(store, kept, len(rows) - len(kept), vocab_size)
