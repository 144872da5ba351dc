"""Check a finished run against itself: hashes, alignment, lineage, one teacher."""

from collections.abc import Iterator
from pathlib import Path

from leyden.data.prompt_set import read_prompt_set
from leyden.data.scores import PER_TOKEN, check_pair, check_scores
from leyden.errors import StoreError
from leyden.files import read_json
from leyden.identity import fingerprint, identify_model
from leyden.lineage import Record
from leyden.pipeline import check_run
from leyden.run import EVALUATE, PROBLEMS, PROMPTS, ROLLOUT, SCORE, SFT, TEACH, Run
from leyden.store.reader import Store, open_store


def verify_run(run: Run) -> Iterator[str]:
    """Yield a sentence per check passed; raise the LeydenError of the first that fails."""
    check_run(run)
    yield "lineage: every finished stage was made from what the recipe and its parents are now"
    for job in run.jobs():
        record = run.record(job)
        if record is not None:
            yield f"{job}: {_verify(run, job, record)}"
    scored = run.record(SCORE)
    if scored is not None:
        yield f"one teacher: {scored.teacher_consistency}"


def _verify(run: Run, job: str, record: Record) -> str:
    folder, stage = run.folder(job), job.partition("/")[0]
    if stage in (PROMPTS, PROBLEMS):
        return f"{len(read_prompt_set(folder, expected=record.fingerprint))} prompts as recorded"
    if stage in (TEACH, ROLLOUT, SCORE):
        store = open_store(folder)
        _same(folder, store.fingerprint, record)
        rows = sum(1 for _ in store)  # reading a row checks its crc32
        if stage == SCORE:
            _verify_scores(run, store)
        return f"{rows} rows, every shard and row as committed"
    if stage == EVALUATE:
        _same(folder, fingerprint(read_json(folder / "scores.json")), record)
        samples = [open_store(path) for path in sorted((folder / "samples").glob("*"))]
        return f"scores as recorded, {sum(sum(1 for _ in s) for s in samples)} samples as committed"
    _same(folder / "model", identify_model(folder / "model").digest, record)
    return f"model {record.fingerprint[:12]}" + (" (reference policy)" if stage == SFT else "")


def _verify_scores(run: Run, scores: Store) -> None:
    rollouts, prompts = open_store(run.folder(ROLLOUT)), run.record(PROMPTS)
    assert prompts is not None
    for index in range(len(scores)):
        rollout, score = rollouts[index], scores[index]
        where = f"{scores.folder}: row {index}"
        check_pair(rollout, score, where)
        for name in PER_TOKEN[:2]:
            check_scores(
                score[name],
                num_tokens=len(rollout["completion_ids"]),
                vocab_size=prompts.counts["vocab_size"],
                where=f"{where}, {name}",
            )


def _same(path: Path, found: str, record: Record) -> None:
    if found != record.fingerprint:
        raise StoreError(
            f"{path}: its content is {found[:12]}, recorded {record.fingerprint[:12]}",
            hint="restore it from a copy, or redo its stage",
        )
