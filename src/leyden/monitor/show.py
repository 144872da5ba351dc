"""One stored completion, token by token, with the teacher's judgement of each."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from leyden.data.scored import check_pair
from leyden.errors import ConfigError
from leyden.run.artifacts import open_artifact, tokenizer_folder
from leyden.run.graph import Graph
from leyden.run.stage import ROLLOUT, SCORE, Artifact, Job
from leyden.run.table import STAGES
from leyden.store.reader import Row, Store

if TYPE_CHECKING:  # Transformers is imported when a row is shown, not with the command line
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ShownToken:
    """A token with its log-probs in nats. Where it was scored, ``advantage`` is teacher minus
    reference, and ``teacher_entropy`` is there if the engine gave it."""

    text: str
    id: int
    sampler: float
    teacher: float | None = None
    reference: float | None = None
    advantage: float | None = None
    teacher_entropy: float | None = None

    @property
    def token(self) -> str:
        """The text with quotes around it and control characters spelled out."""
        return repr(self.text)


@dataclass(frozen=True)
class ShownRow:
    """A stored completion as text."""

    prompt_id: str
    sample: int
    finish_reason: str
    prompt: str
    completion: str
    tokens: list[ShownToken]


def show_row(graph: Graph, stage: str, index: int) -> ShownRow:
    """Row ``index`` of a stage's store; rollouts with their scores, where they were scored."""
    from leyden.models.vocabulary import load_tokenizer

    kinds = {name: row.artifact for name, row in STAGES.items()}
    rows = [n for n, kind in kinds.items() if kind in (Artifact.COMPLETIONS, Artifact.SCORES)]
    if stage not in rows:
        raise ConfigError(f"stage {stage!r} has no rows to show", hint=" or ".join(rows))
    job = ROLLOUT if kinds[stage] == Artifact.SCORES else Job(stage)
    row = _row(open_artifact(graph, job), index)
    score = None
    if stage == SCORE.stage or (job == ROLLOUT and graph.finished(SCORE)):
        score = _row(open_artifact(graph, SCORE), index)
        check_pair(row, score, f"{graph.folder(SCORE)}: row {index}")
    return describe(row, score, load_tokenizer(tokenizer_folder(graph)))


def describe(row: Row, score: Row | None, tokenizer: "PreTrainedTokenizerBase") -> ShownRow:
    """A row of a store, and perhaps of the score store, as text and tokens."""
    from leyden.models.vocabulary import continuation_text

    return ShownRow(
        prompt_id=row["prompt_id"],
        sample=row["sample"],
        finish_reason=row["finish_reason"],
        prompt=str(tokenizer.decode(row["prompt_ids"].tolist())),
        completion=continuation_text(tokenizer, row["completion_ids"].tolist()),
        tokens=[_token(row, score, tokenizer, i) for i in range(len(row["completion_ids"]))],
    )


def _token(row: Row, score: Row | None, tokenizer: "PreTrainedTokenizerBase", i: int) -> ShownToken:
    token_id = int(row["completion_ids"][i])
    text, sampler = str(tokenizer.decode([token_id])), float(row["logp_sampler"][i])
    if score is None:
        return ShownToken(text, token_id, sampler)
    teacher, reference = float(score["logp_teacher"][i]), float(score["logp_reference"][i])
    entropy = float(score["teacher_entropy"][i]) if "teacher_entropy" in score else None
    return ShownToken(text, token_id, sampler, teacher, reference, teacher - reference, entropy)


def _row(store: Store, index: int) -> Row:
    if not 0 <= index < len(store):
        raise ConfigError(
            f"{store.folder}: has no row {index}, it has {len(store)}", hint="rows count from 0"
        )
    return store[index]
