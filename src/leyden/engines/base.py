"""The engine seam: token ids in, NumPy out.

An engine samples completions and scores given tokens. Nothing here imports torch, so that an engine
may live in another process or on another machine. Shapes: T completion tokens, K ids per token.
Log-probs are natural, in nats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from leyden.errors import ConfigError
from leyden.recipe.engines import EngineChoice
from leyden.recipe.sampling import Sampling
from leyden.recipe.schema import Execution

if TYPE_CHECKING:  # the stage table names roles of engines, and `leyden --help` reads the table
    import numpy as np

OTHER_MODEL = 0.1  # nats per token, as a mean over a few sequences: no engine's noise is as large
SAME_SCORE = 1e-3  # nats between two log-probs of one token in one answer
Role = Literal["teacher", "student", "reference"]
Tail = Literal["exact", "complement"]
"""The mass outside the top k was summed from the other logits (exact), or it is one minus the top k
(complement). The second is rounding noise exactly where the model is certain."""


@dataclass(frozen=True)
class GenerateRequest:
    """Continue ``prompt_ids``. The same seed gives the same completion.

    The requests of one ``group`` follow each other. The last bits of a log-prob depend on which
    rows share a batch, so an engine that batches within groups alone gives a group the same bits
    whatever else is asked for. An engine that batches across groups ignores it.
    """

    prompt_ids: Sequence[int]
    seed: int
    group: int = 0
    last: bool = False
    """Whether its group ends with it. Where this is said, an engine need not ask for the next group
    to know."""
    room: int | None = None
    """Tokens that the context has room for after the prompt, where that is known."""

    def cap(self, sampling: Sampling) -> int:
        """The most tokens of its completion."""
        most = sampling.max_new_tokens
        return most if self.room is None else min(most, self.room)


@dataclass(frozen=True)
class Completion:
    """``ids`` int32 [T] as sampled, the stop token included. ``logp`` float32 [T] under the
    sampler's own transform. ``finish_reason`` is "stop", or "length" where the completion was cut
    at the cap and has no stop token."""

    ids: np.ndarray
    logp: np.ndarray
    finish_reason: str


@dataclass(frozen=True)
class ScoreRequest:
    """Score every token of ``completion_ids`` [T] after ``prompt_ids``.

    With ``top_k`` the K likeliest ids per token are wanted too, or with ``at_ids`` [T, K] the
    log-probs of these ids; not both. ``group`` and ``last`` are as in a GenerateRequest.
    """

    prompt_ids: np.ndarray
    completion_ids: np.ndarray
    top_k: int = 0
    at_ids: np.ndarray | None = None
    group: int = 0
    last: bool = False


@dataclass(frozen=True)
class TopK:
    """K ids per token, their log-probs, and the log of the mass outside them.

    ``ids`` int [T, K], the likeliest first unless they were given; ``logp`` float32 [T, K];
    ``tail`` float32 [T], finite, computed as ``tail_is`` says.
    """

    ids: np.ndarray
    logp: np.ndarray
    tail: np.ndarray
    tail_is: Tail


@dataclass(frozen=True)
class TokenScores:
    """``logp`` float32 [T] of the given tokens at temperature 1, untruncated. ``entropy`` float32
    [T], in nats, where the engine offers it."""

    logp: np.ndarray
    entropy: np.ndarray | None = None
    top_k: TopK | None = None


@dataclass(frozen=True)
class Failed:
    """In place of a result: the engine gave a request up, and ``why``. Other requests go on."""

    why: str


@dataclass(frozen=True)
class Offers:
    """The abilities of an engine. ``top_k`` scores the likeliest ids, ``at_ids`` given ones."""

    sample: bool = True
    score: bool = True
    top_k: bool = True
    at_ids: bool = True
    entropy: bool = True
    tail: Tail = "exact"


class Engine(Protocol):
    """A model that samples and scores. Opening one is cheap: it loads its model on first use. It is
    hashable, by identity.

    Both iterators give (index of the request, result) as results come, in any order, each index
    once. They take requests as they have room for them, and not all of them at once.
    """

    @property
    def offers(self) -> Offers: ...

    def numerics(self) -> dict[str, Any]:
        """Everything beside model and request that decides how numbers round, as JSON values."""
        ...

    def load(self) -> None:
        """Load the model now, unless that was done. Raises EngineError."""
        ...

    def generate(
        self, requests: Iterable[GenerateRequest], sampling: Sampling, stop_ids: Sequence[int]
    ) -> Iterator[tuple[int, Completion | Failed]]:
        """Sample a completion for every request."""
        ...

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[tuple[int, TokenScores | Failed]]:
        """Score the completion of every request."""
        ...

    def close(self) -> None:
        """Give the model's memory back. A later use loads it again."""
        ...


Ability = Literal["sample", "score", "top_k", "at_ids"]


def require_offer(engine: Engine, ability: Ability, user: str) -> None:
    """Raise ConfigError where the engine lacks an ability that ``user`` needs."""
    if not getattr(engine.offers, ability):
        name = engine.numerics().get("engine")
        raise ConfigError(
            f"{user}: its engine, {name}, does not offer {ability!r}",
            hint="choose another engine for it, or set score.top_k = 0 if the top k is missing",
        )


def top_k_problem(ids_T: np.ndarray, scores: TokenScores) -> str:
    """Name a contradiction between a top k and the scores of the given tokens, if there is one."""
    import numpy as np

    top = scores.top_k
    if top is None:
        return ""
    inside_TK = top.ids == ids_T[:, None]
    has_T, least_T = inside_TK.any(-1), top.logp.min(-1)
    missing_T = ~has_T & (scores.logp > least_T + SAME_SCORE)
    own_T = np.where(inside_TK, top.logp, -np.inf).max(-1)
    other_T = has_T & ~(np.abs(np.where(has_T, own_T, 0) - scores.logp) <= SAME_SCORE)
    if missing_T.any():
        return f"token {int(missing_T.argmax())} is likelier than one of the likeliest"
    if other_T.any():
        return f"token {int(other_T.argmax())} has two log-probs"
    if not np.diff(np.sort(top.ids, axis=-1)).all():
        return "one of the likeliest tokens comes twice"
    return ""


def complement_tail(logp: np.ndarray) -> np.ndarray:
    """The log of the mass outside K ids as what is missing from one: [T, K] -> float32 [T].

    It is floored at the rounding error of float32, since -inf would say that the K ids are the
    whole vocabulary.
    """
    import numpy as np

    missing = 1 - np.exp(logp.astype(np.float64)).sum(-1)
    return np.log(np.maximum(missing, np.finfo(np.float32).eps)).astype(np.float32)


@dataclass(frozen=True)
class EngineSpec:
    """The model that an engine runs, its role, and which engine it is.

    ``model`` is a folder or a Hub id. Log-probs are over the ids below ``vocab_size``; None stands
    for all that the model has.
    """

    role: Role
    model: str
    execution: Execution
    vocab_size: int | None = None
    choice: EngineChoice = field(default_factory=EngineChoice)

    @property
    def devices(self) -> int:
        """Devices that one such engine uses; those of a server are not known, and count as one."""
        return self.choice.tensor_parallel


class OpenEngine(Protocol):
    """Opens the engine of a spec, without loading its model."""

    def __call__(self, spec: EngineSpec, /) -> Engine: ...
