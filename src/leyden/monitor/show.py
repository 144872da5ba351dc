"""One stored completion, token by token, with what the teacher thought of each."""

from typing import Any

from leyden.data.scored import check_pair
from leyden.errors import ConfigError
from leyden.models.vocabulary import load_tokenizer
from leyden.run.artifacts import open_artifact, tokenizer_folder
from leyden.run.run import ROLLOUT, SCORE, TEACH, Run
from leyden.store.reader import Row, Store


def show_row(run: Run, stage: str, index: int) -> dict[str, Any]:
    """Row ``index`` of ``teach``, ``rollout`` or ``score`` (the rollout with its scores)."""
    if stage not in (TEACH, ROLLOUT, SCORE):
        raise ConfigError(f"stage {stage!r} has no rows to show", hint="teach, rollout or score")
    store = open_artifact(run, TEACH if stage == TEACH else ROLLOUT)
    row = _row(store, index)
    scored = stage == SCORE or (stage == ROLLOUT and run.record(SCORE) is not None)
    score = _row(open_artifact(run, SCORE), index) if scored else None
    if score is not None:
        check_pair(row, score, f"{run.folder(SCORE)}: row {index}")
    return describe(row, score, load_tokenizer(tokenizer_folder(run)))


def describe(row: Row, score: Row | None, tokenizer: Any) -> dict[str, Any]:
    """A row as text and a list of tokens; log-probs in nats, advantage = teacher - reference."""
    return {
        "prompt_id": row["prompt_id"],
        "sample": row["sample"],
        "finish_reason": row["finish_reason"],
        "prompt": tokenizer.decode(row["prompt_ids"].tolist()),
        "completion": tokenizer.decode(row["completion_ids"].tolist()),
        "tokens": [_token(row, score, tokenizer, i) for i in range(len(row["completion_ids"]))],
    }


def _token(row: Row, score: Row | None, tokenizer: Any, i: int) -> dict[str, Any]:
    token_id = int(row["completion_ids"][i])
    text = tokenizer.decode([token_id])
    found: dict[str, Any] = {"token": repr(text), "text": text, "id": token_id}
    found["sampler"] = float(row["logp_sampler"][i])
    if score is not None:
        teacher, reference = float(score["logp_teacher"][i]), float(score["logp_reference"][i])
        found |= {"teacher": teacher, "reference": reference, "advantage": teacher - reference}
        found["teacher entropy"] = float(score["teacher_entropy"][i])
    return found


def _row(store: Store, index: int) -> Row:
    if not 0 <= index < len(store):
        raise ConfigError(
            f"{store.folder}: has no row {index}, it has {len(store)}", hint="rows count from 0"
        )
    return store[index]
