"""A run's prompts sampled into a store of its own: what teach, rollout and evaluate share."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leyden.artifacts import open_prompts, stop_ids, vocab_size
from leyden.config import Sampling
from leyden.engines.fill import fill_completions
from leyden.engines.transformers import TransformersEngine
from leyden.limits import check_limits
from leyden.lineage import Intent
from leyden.run import PROMPTS, Run
from leyden.store.plan import make_plan
from leyden.store.reader import Store, open_store
from leyden.store.schema import COMPLETIONS
from leyden.store.writer import open_writer


def sample_store(
    run: Run,
    intent: Intent,
    model: Path,
    sampling: Sampling,
    splits: Sequence[str],
    *,
    source: str = PROMPTS,
    folder: Path | None = None,
    limit: int | None = None,
    purpose: str = "",
) -> tuple[Store, float]:
    """Sample ``model`` on the prompts of ``splits``; the sealed store and its device-seconds."""
    folder = folder or run.folder(intent.stage)
    prompts = {p.id: p for p in open_prompts(run, source).values() if p.split in splits}
    check_limits(run, prompts.values(), vocab_size=vocab_size(run))
    units = make_plan(
        list(prompts)[:limit],
        samples=sampling.samples_per_prompt,
        rows_per_unit=run.recipe.execution.rows_per_unit,
        seed=run.recipe.seed,
        purpose=purpose or intent.stage,
    )
    writer = open_writer(folder, COMPLETIONS, units, origin=intent.digest)
    with run.progress(intent.stage, sum(len(u.rows) for u in units), "rows") as advance:
        fill_completions(
            writer,
            lambda: TransformersEngine.load(model, run.recipe.execution, vocab_size(run)),
            prompts,
            sampling,
            stop_ids(run),
            advance=advance,
        )
    writer.seal()
    return open_store(folder), writer.device_seconds()


def sample_counts(store: Store) -> dict[str, Any]:
    """What a stage that samples records about its store."""
    by_split: Counter[str] = Counter()
    for split, length in zip(store.values("split"), store.lengths("completion_ids"), strict=True):
        by_split[split] += length
    return {
        "rows": len(store),
        "tokens": store.num_tokens,
        "split_tokens": dict(by_split),
        "truncated": store.values("finish_reason").count("length"),
    }
