"""A run's prompts sampled into a store of its own: what teach, rollout and evaluate share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leyden.config import Sampling
from leyden.data.prompt_set import RenderedPrompt, read_prompt_set
from leyden.engines.fill import fill_completions
from leyden.engines.transformers import TransformersEngine
from leyden.lineage import Intent
from leyden.run import PROMPTS, Run
from leyden.store.plan import make_plan
from leyden.store.reader import Store, open_store
from leyden.store.schema import COMPLETIONS
from leyden.store.writer import open_writer


def run_prompt_set(run: Run, job: str = PROMPTS) -> dict[str, RenderedPrompt]:
    """The prompts (or problems) rendered for the run, by id, checked against their record."""
    record = run.record(job)
    assert record is not None, "the intent of this stage required it"
    return read_prompt_set(run.folder(job), expected=record.fingerprint)


def stop_ids(run: Run) -> list[int]:
    """The tokens that end a completion, as fixed when the prompts were rendered."""
    return _prompt_counts(run)["stop_ids"]


def vocab_size(run: Run) -> int:
    """Rows of the teacher's embedding; every stored id is below it."""
    return _prompt_counts(run)["vocab_size"]


def _prompt_counts(run: Run) -> dict[str, Any]:
    record = run.record(PROMPTS)
    assert record is not None, "the intent of this stage required it"
    return record.counts


def sample_store(
    run: Run,
    intent: Intent,
    model: Path,
    sampling: Sampling,
    splits: Sequence[str],
    *,
    source: str = PROMPTS,
    folder: Path | None = None,
    samples: int | None = None,
    purpose: str = "",
) -> tuple[Store, float]:
    """Sample ``model`` on the prompts of ``splits``; the sealed store and its device-seconds."""
    folder = folder or run.folder(intent.stage)
    prompts = run_prompt_set(run, source)
    units = make_plan(
        [p.id for p in prompts.values() if p.split in splits],
        samples=samples or sampling.samples_per_prompt,
        rows_per_unit=run.recipe.execution.rows_per_unit,
        seed=run.recipe.seed,
        purpose=purpose or intent.stage,
    )
    writer = open_writer(folder, COMPLETIONS, units, origin=intent.digest)
    with run.progress(intent.stage, sum(len(u.rows) for u in units), "rows") as advance:
        fill_completions(
            writer,
            lambda: TransformersEngine.load(model, run.recipe.execution),
            prompts,
            sampling,
            stop_ids(run),
            advance=advance,
        )
    writer.seal()
    return open_store(folder), writer.device_seconds()
