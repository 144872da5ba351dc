"""Check a finished run against itself: hashes, alignment, lineage, one teacher."""

from collections.abc import Callable, Iterator
from pathlib import Path

from leyden.data.scored import check_columns, check_pair, check_score_row
from leyden.errors import LeydenError, StoreError
from leyden.evals.results import Results
from leyden.monitor.status import results_of
from leyden.pipeline.drift import check_run
from leyden.provenance.identity import hash_file, hashed_afresh
from leyden.provenance.records import Record, require_file
from leyden.run.artifacts import open_artifact, open_prompts, prompt_facts
from leyden.run.graph import Graph, resolve
from leyden.run.layout import DIVERGENCE, METRICS, SAMPLES, grades_file
from leyden.run.run import Run
from leyden.run.stage import DISTILL, EVALUATE, ROLLOUT, SCORE, SFT, Artifact, Job
from leyden.store.reader import Store, check_plan, open_store


def verify_run(run: Run) -> Iterator[str]:
    """Yield a sentence per check; after the last, raise a StoreError if any of them failed.

    Every file is read: no hash that was kept before vouches for one.
    """
    graph = resolve(run)
    checks: dict[str, Callable[[], str]] = {"lineage": lambda: _lineage(graph)}
    checks |= {str(job): lambda job=job: _verify(graph, job) for job in graph.jobs}
    failed: list[LeydenError] = []
    for name, check in checks.items():
        try:
            with hashed_afresh():
                sentence = check()
        except LeydenError as error:
            failed.append(error)
            sentence = f"FAILED: {error}"
        yield f"{name}: {sentence}"
    yield from _strangers(graph)
    if failed:
        raise StoreError(
            f"{run.root}: {len(failed)} of the checks failed, first: {failed[0]}",
            hint=failed[0].hint,
        )
    scored = graph.record(SCORE)
    if scored is not None:
        yield f"one teacher: {scored.teacher_consistency}"


def _lineage(graph: Graph) -> str:
    check_run(graph, [])
    return "every finished stage was made from what the recipe and its parents are now"


def _verify(graph: Graph, job: Job) -> str:
    """A sentence about the artifact in order, or about a job that is not finished."""
    record = graph.record(job)
    if record is not None:
        return BY_KIND[graph.stage(job).artifact](graph, job, record)
    if graph.begun(job) is not None:
        return "not finished, nothing of it was checked"
    return "not recorded, nothing of it was checked" if _files(graph.folder(job)) else "not begun"


def _files(folder: Path) -> bool:
    return any(path.is_file() for path in folder.rglob("*"))


def _strangers(graph: Graph) -> Iterator[str]:
    """A sentence for each arm or model in the run's folder that its recipe does not have."""
    known = {str(job) for job in graph.jobs}
    for stage in (DISTILL, EVALUATE):
        for folder in sorted((graph.run.root / stage).glob("*")):
            name = f"{stage}/{folder.name}"
            if folder.is_dir() and name not in known:
                yield f"{name}: the recipe has no such job, nothing of it was checked"


def _prompts(graph: Graph, job: Job, record: Record) -> str:
    return f"{len(open_prompts(graph, job))} prompts as recorded"


def _completions(graph: Graph, job: Job, record: Record) -> str:
    return f"{_rows(open_artifact(graph, job))} rows, every shard and row as committed"


def _scores(graph: Graph, job: Job, record: Record) -> str:
    scores, rollouts = open_artifact(graph, job), open_artifact(graph, ROLLOUT)
    rows, size = _rows(scores), prompt_facts(graph).vocab_size
    for index in range(rows):
        rollout, score = rollouts[index], scores[index]
        where = f"{scores.folder}: row {index}"
        check_pair(rollout, score, where)
        num_tokens = len(rollout["completion_ids"])
        check_score_row(score, num_tokens=num_tokens, vocab_size=size, where=where)
    check_columns(scores, size)
    return f"{rows} rows, every shard and row as committed"


def _model(graph: Graph, job: Job, record: Record) -> str:
    graph.fingerprint(job)
    if recorded := record.facts.get("metrics"):
        require_file(graph.folder(job) / METRICS, recorded)
    return f"model {record.fingerprint[:12]}" + (" (reference policy)" if job == SFT else "")


def _results(graph: Graph, job: Job, record: Record) -> str:
    """The results, the grades and the samples behind them."""
    folder = graph.folder(job)
    results = results_of(graph, job)
    for path in changed_grades(folder, results):
        require_file(path, results.benchmarks[path.stem].grades)
    stores, origin = stores_behind(results), record.intent.digest
    rows = sum(
        _rows(open_store(folder / name, expected=digest, origin=origin))
        for name, digest in stores.items()
    )
    return f"results and {rows} samples as recorded"


def changed_grades(folder: Path, results: Results) -> list[Path]:
    """The files of grades in an evaluation's folder that are not those of its results."""
    paths = {grades_file(folder, name): one.grades for name, one in results.benchmarks.items()}
    return [p for p, grades in paths.items() if not p.is_file() or hash_file(p) != grades]


def stores_behind(results: Results) -> dict[Path, str]:
    """The stores of samples that results were measured on: place in the folder -> fingerprint."""
    stores = {Path(SAMPLES) / name: one.store for name, one in results.benchmarks.items()}
    if results.divergence is not None:
        stores[Path(DIVERGENCE)] = results.divergence.store
    return stores


def _rows(store: Store) -> int:
    """The number of rows, each read, which checks its crc32; plan and commits must agree."""
    check_plan(store)
    return sum(1 for _ in store)


BY_KIND: dict[Artifact, Callable[[Graph, Job, Record], str]] = {
    Artifact.PROMPTS: _prompts,
    Artifact.COMPLETIONS: _completions,
    Artifact.SCORES: _scores,
    Artifact.MODEL: _model,
    Artifact.RESULTS: _results,
}
