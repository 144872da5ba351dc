"""Check a finished run against itself: hashes, alignment, lineage, one teacher."""

from collections.abc import Iterator
from pathlib import Path

from leyden.data.prompt_set import read_prompt_set
from leyden.data.scored import check_pair, check_score_row, check_some_doubt
from leyden.errors import LeydenError, StoreError
from leyden.evals.results import read_scores
from leyden.pipeline.drift import check_run
from leyden.provenance.identity import hash_file, identify_model
from leyden.provenance.records import Record, require_same
from leyden.run.artifacts import open_artifact, vocab_size
from leyden.run.run import EVALUATE, PROBLEMS, PROMPTS, ROLLOUT, SCORE, SFT, TEACH, Run
from leyden.store.reader import Store, check_plan, open_store


def verify_run(run: Run) -> Iterator[str]:
    """Yield a sentence per check; after the last, raise a StoreError if any of them failed."""
    failed: list[LeydenError] = []
    for name, check in {"lineage": _lineage, **dict.fromkeys(run.jobs(), _verify)}.items():
        try:
            said = check(run, name)
        except LeydenError as error:
            failed.append(error)
            said = f"FAILED: {error}"
        if said:
            yield f"{name}: {said}"
    if failed:
        raise StoreError(
            f"{run.root}: {len(failed)} of the checks failed, first: {failed[0]}",
            hint=failed[0].hint,
        )
    scored = run.record(SCORE)
    if scored is not None:
        yield f"one teacher: {scored.teacher_consistency}"


def _lineage(run: Run, name: str) -> str:
    check_run(run, [])
    return "every finished stage was made from what the recipe and its parents are now"


def _verify(run: Run, job: str) -> str:
    """What was found in order; nothing to say of a job that is not finished."""
    record = run.record(job)
    return "" if record is None else _verify_artifact(run, job, record)


def _verify_artifact(run: Run, job: str, record: Record) -> str:
    folder, stage = run.folder(job), job.partition("/")[0]
    if stage in (PROMPTS, PROBLEMS):
        return f"{len(read_prompt_set(folder, expected=record.fingerprint))} prompts as recorded"
    if stage in (TEACH, ROLLOUT, SCORE):
        store = open_artifact(run, job)
        check_plan(store)
        rows = sum(1 for _ in store)  # reading a row checks its crc32
        if stage == SCORE:
            _verify_scores(run, store)
        return f"{rows} rows, every shard and row as committed"
    if stage == EVALUATE:
        return f"scores and {_verify_scores_file(folder, record)} samples as recorded"
    model = folder / "model"
    require_same(model, identify_model(model).digest, record.fingerprint)
    return f"model {record.fingerprint[:12]}" + (" (reference policy)" if stage == SFT else "")


def _verify_scores_file(folder: Path, record: Record) -> int:
    """scores.json, the grades and the samples behind them; how many samples there are."""
    scores = read_scores(folder)
    for name, score in scores["benchmarks"].items():
        grades = folder / "grades" / f"{name}.jsonl"
        require_same(grades, hash_file(grades) if grades.exists() else "missing", score["grades"])
    made = {f"samples/{name}": score["store"] for name, score in scores["benchmarks"].items()}
    if "divergence" in scores:
        made["divergence"] = scores["divergence"]["store"]
    origin = record.intent.digest
    stores = [open_store(folder / n, expected=digest, origin=origin) for n, digest in made.items()]
    for store in stores:
        check_plan(store)
    return sum(sum(1 for _ in store) for store in stores)


def _verify_scores(run: Run, scores: Store) -> None:
    rollouts, size = open_artifact(run, ROLLOUT), vocab_size(run)
    for index in range(len(scores)):
        rollout, score = rollouts[index], scores[index]
        where = f"{scores.folder}: row {index}"
        check_pair(rollout, score, where)
        num_tokens = len(rollout["completion_ids"])
        check_score_row(score, num_tokens=num_tokens, vocab_size=size, where=where)
    check_some_doubt(scores, size)
