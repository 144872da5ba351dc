"""Stored rollouts joined with their scores, row by row, and refused where they cannot be right."""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from leyden.data.limits import CERTAIN, CERTAIN_TOKENS, MASS_TOLERANCE, ROUNDING
from leyden.data.sequences import ModelScores, TeacherColumns, TokenSequence
from leyden.data.sound import ids_are_sound, models_of, scores_are_sound
from leyden.errors import AlignmentError, StoreError
from leyden.store.reader import Row, Store
from leyden.store.schema import CHECKSUM

HINT = "score again; these are not a model's log-probs"


def check_scores(
    logp_N: np.ndarray,
    *,
    num_tokens: int,
    vocab_size: int,
    where: str,
    entropy_N: np.ndarray | None = None,
) -> None:
    """Raise AlignmentError on log-probs no model gives; ``where`` names file, row and field.

    An exact zero is a missing score unless ``entropy_N``, in nats, says that the model was certain
    of that token. Without entropies, half a row of exact zeros is missing.
    """
    if len(logp_N) != num_tokens:
        problem = f"{len(logp_N)} scores for {num_tokens} tokens"
    elif not np.isfinite(logp_N).all():
        problem = (
            f"token {int(np.argmin(np.isfinite(logp_N)))} is {logp_N[~np.isfinite(logp_N)][0]}"
        )
    elif (logp_N > ROUNDING).any():
        problem = f"token {int(np.argmax(logp_N))} is {logp_N.max():.4g}, a probability above one"
    elif missing := _zeros_of_no_model(logp_N, entropy_N):
        some = "every score is" if missing == num_tokens else f"{missing} of its scores are"
        problem = f"{some} exactly 0, as if scores were missing"
    elif len(logp_N) >= 2 and np.allclose(logp_N, -math.log(vocab_size), atol=1e-4):
        problem = f"every score is -ln {vocab_size}, as from a model without weights"
    else:
        return
    raise AlignmentError(f"{where}: {problem}", hint=HINT)


def _zeros_of_no_model(logp_N: np.ndarray, entropy_N: np.ndarray | None) -> int:
    """The number of exact zeros that cannot be log-probs."""
    zero_N = logp_N == 0
    if entropy_N is not None:
        return int((zero_N & (entropy_N >= CERTAIN)).sum())
    count = int(zero_N.sum())
    return count if count >= max(CERTAIN_TOKENS, len(logp_N) / 2) else 0


def _doubt(score: Row, model: str, num_tokens: int) -> np.ndarray | None:
    """The model's entropy at every token, or a bound below it, as far as a row tells; in nats."""
    if f"{model}_entropy" in score:
        return score[f"{model}_entropy"]
    top_k = score.get(f"{model}_topk_logp")
    if top_k is None or len(top_k) % max(1, num_tokens) or not len(top_k):
        return None
    return -top_k.reshape(num_tokens, -1).max(-1)  # of the likeliest id


def check_ids(row: Row, *, vocab_size: int, where: str) -> None:
    """Raise AlignmentError on a token id that the model's vocabulary does not have."""
    for name in ("prompt_ids", "completion_ids", "topk_ids"):
        ids = row.get(name)
        if ids is None or not len(ids):
            continue
        if ids.min() < 0 or ids.max() >= vocab_size:
            bad = ids[(ids < 0) | (ids >= vocab_size)][0]
            raise AlignmentError(
                f"{where}, {name}: id {bad} is outside the vocabulary of {vocab_size}",
                hint="this store was made with another tokenizer; make it again with this one",
            )


def check_top_k(score: Row, *, num_tokens: int, where: str) -> None:
    """Raise AlignmentError where the top-k columns are not k masses and their rest, per token."""
    if "topk_ids" not in score:
        return
    k, odd = divmod(len(score["topk_ids"]), max(1, num_tokens))
    for model in models_of(score):
        logp, tail = score[f"{model}_topk_logp"], score[f"{model}_tail_logp"]
        if odd or k == 0 or len(logp) != k * num_tokens or len(tail) != num_tokens:
            problem = f"{len(logp)} top-k scores and {len(tail)} tails for {num_tokens} tokens"
        elif not np.isfinite(logp).all() or not np.isfinite(tail).all():
            problem = "a top-k score is not finite"
        else:
            mass = np.exp(logp.astype(np.float64)).reshape(num_tokens, k).sum(-1) + np.exp(tail)
            off = np.abs(mass - 1)
            if not (off > MASS_TOLERANCE).any():
                continue
            problem = f"token {int(off.argmax())} has a mass of {mass[off.argmax()]:.4g}, not 1"
        raise AlignmentError(f"{where}, {model}_topk_logp: {problem}", hint=HINT)


def check_score_row(score: Row, *, num_tokens: int, vocab_size: int, where: str) -> None:
    """Raise AlignmentError on a row of the score store that no two models give."""
    for model in models_of(score):
        check_scores(
            score[f"logp_{model}"],
            num_tokens=num_tokens,
            vocab_size=vocab_size,
            where=f"{where}, logp_{model}",
            entropy_N=_doubt(score, model, num_tokens),
        )
    check_ids(score, vocab_size=vocab_size, where=where)
    check_top_k(score, num_tokens=num_tokens, where=where)


def check_columns(scores: Store, vocab_size: int) -> None:
    """Raise AlignmentError where a whole column cannot be a model's.

    All zeros is a column that was never set, unless the model was certain everywhere. All -ln V is
    a model without weights.
    """
    for name in {"logp_teacher", "logp_reference"} & set(scores.schema.names):
        doubt = f"{name.removeprefix('logp_')}_entropy"
        certain = doubt in scores.schema.names and all(
            float(np.max(entropies, initial=0.0)) < CERTAIN for entropies in scores.lists(doubt)
        )
        for value in (-math.log(vocab_size),) if certain else (0.0, -math.log(vocab_size)):
            near = 1e-4 if value else 0.0
            if all(np.allclose(logp, value, rtol=0, atol=near) for logp in scores.lists(name)):
                raise AlignmentError(
                    f"{scores.folder}: every {name} is {value:.6g}, as from no model at all",
                    hint=HINT,
                )


@dataclass(frozen=True)
class ScoredRollouts:
    """The rollouts ``rows`` with their scores, aligned and checked at every read.

    Of the stored ids the likeliest ``top_k`` are given out, or with 0 all of them.
    """

    rollouts: Store
    scores: Store
    rows: tuple[int, ...]
    vocab_size: int
    top_k: int = 0
    _passed: dict[tuple[str, int], bool] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TokenSequence:
        row = self.rows[index]
        rollout, score = self.rollouts[row], self.scores[row]
        where = f"{self.scores.folder}: row {row} (prompt {score['prompt_id']})"
        check_pair(rollout, score, where)
        num_tokens = len(rollout["completion_ids"])
        if not self._sound(row):
            check_ids(rollout, vocab_size=self.vocab_size, where=where)
            check_score_row(score, num_tokens=num_tokens, vocab_size=self.vocab_size, where=where)
        return sequence_of(rollout, columns_of(score, num_tokens, self.top_k))

    @cached_property
    def _lengths(self) -> np.ndarray:
        """Completion tokens of every rollout."""
        return np.array(self.rollouts.lengths("completion_ids"))

    def _sound(self, row: int) -> bool:
        """Whether the shards that hold a row, and its scores, have passed as a whole."""
        mine, theirs = self.rollouts.shard_of(row), self.scores.shard_of(row)
        if ("ids", mine) not in self._passed:
            ids = ids_are_sound(self.rollouts.shards[mine].columns, self.vocab_size)
            self._passed["ids", mine] = ids
        if ("scores", theirs) not in self._passed:
            lengths = self._lengths[slice(*self.scores.rows_of(theirs))]
            columns = self.scores.shards[theirs].columns
            self._passed["scores", theirs] = scores_are_sound(columns, lengths, self.vocab_size)
        return self._passed["ids", mine] and self._passed["scores", theirs]


def check_pair(rollout: Row, score: Row, where: str) -> None:
    """Raise AlignmentError unless ``score`` belongs to the completion that it stands beside."""
    same = all(rollout[key] == score[key] for key in ("prompt_id", "sample"))
    if not same or rollout[CHECKSUM] != score["completion_crc32"]:
        raise AlignmentError(
            f"{where}: scores another completion than the rollout in its place "
            f"(prompt {rollout['prompt_id']}, sample {rollout['sample']})",
            hint="score this rollout store again",
        )


def open_pair(
    rollouts: Store, scores: Store, *, split: str, vocab_size: int, top_k: int = 0
) -> ScoredRollouts:
    """The rollouts of ``split`` with their scores. Raises StoreError where they are no pair."""
    if len(rollouts) != len(scores):
        raise StoreError(
            f"{scores.folder}: {len(scores)} rows for the {len(rollouts)} of {rollouts.folder}",
            hint="score this rollout store again",
        )
    check_columns(scores, vocab_size)
    rows = tuple(i for i, s in enumerate(rollouts.values("split")) if s == split)
    return ScoredRollouts(rollouts, scores, rows, vocab_size, top_k)


def sequence_of(row: Row, columns: TeacherColumns[np.ndarray] | None = None) -> TokenSequence:
    """The token ids of a stored completion, exactly as they were sampled."""
    return TokenSequence(row["prompt_ids"], row["completion_ids"], columns)


def columns_of(score: Row, num_tokens: int, top_k: int = 0) -> TeacherColumns[np.ndarray]:
    """A row of the score store as training reads it; of the ids the likeliest ``top_k``, or all."""
    ids = score.get("topk_ids")
    both = {model: _model_scores(score, model, num_tokens, top_k) for model in models_of(score)}
    return TeacherColumns(
        both["teacher"],
        both.get("reference"),
        None if ids is None else _cut(_per_token(ids, num_tokens), top_k).astype(np.int64),
    )


def _model_scores(score: Row, model: str, num_tokens: int, top_k: int) -> ModelScores[np.ndarray]:
    logp = score[f"logp_{model}"].astype(np.float32, copy=False)
    if f"{model}_topk_logp" not in score:
        return ModelScores(logp)
    topk_logp = _per_token(score[f"{model}_topk_logp"], num_tokens).astype(np.float32, copy=False)
    tail = score[f"{model}_tail_logp"].astype(np.float32, copy=False)
    if top_k:  # ids are stored likeliest first; those beyond top_k join the tail
        # The mass of the new tail is the sum of the old tail and the ids that joined it.
        rest = np.concatenate([topk_logp[:, top_k:], tail[:, None]], axis=1)
        topk_logp, tail = _cut(topk_logp, top_k), np.logaddexp.reduce(rest, axis=1)
    return ModelScores(logp, topk_logp, tail)


def _per_token(flat: np.ndarray, num_tokens: int) -> np.ndarray:
    return flat.reshape(num_tokens, -1)


def _cut(columns: np.ndarray, top_k: int) -> np.ndarray:
    return columns[:, :top_k] if top_k else columns
