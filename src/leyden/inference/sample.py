"""Prompts sampled into a store of its own: what teach, rollout and evaluate share."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden.data.prompt_set import RenderedPrompt
from leyden.engines.transformers import TransformersEngine
from leyden.inference.fill import fill_completions
from leyden.provenance.records import Intent
from leyden.recipe.sampling import Sampling
from leyden.recipe.schema import Execution
from leyden.run.artifacts import open_prompts, stop_ids, vocab_size
from leyden.run.fits import check_limits
from leyden.run.run import PROMPTS, Run
from leyden.store.plan import make_plan
from leyden.store.reader import Store, open_store
from leyden.store.schema import COMPLETIONS
from leyden.store.writer import open_writer
from leyden.telemetry.progress import Progress


@dataclass(frozen=True)
class Sampler:
    """A model that answers, and everything that decides its answers beside the prompts.

    ``origin`` is the digest of the intent that its stores are made from; ``title`` is for screens.
    """

    model: Path
    vocab_size: int
    stop_ids: Sequence[int]
    seed: int
    execution: Execution
    origin: str
    title: str
    progress: Progress

    @classmethod
    def of_run(cls, run: Run, intent: Intent, model: Path) -> "Sampler":
        return cls(
            model,
            vocab_size(run),
            stop_ids(run),
            run.recipe.seed,
            run.recipe.execution,
            intent.digest,
            intent.stage,
            run.progress,
        )

    def fill(
        self,
        folder: Path,
        prompts: Sequence[RenderedPrompt],
        sampling: Sampling,
        *,
        purpose: str,
    ) -> tuple[Store, float]:
        """The sealed store of ``prompts`` answered, made or finished, and its device-seconds.

        ``purpose`` goes into every row's seed: another one, other samples.
        """
        units = make_plan(
            [prompt.id for prompt in prompts],
            samples=sampling.samples_per_prompt,
            rows_per_unit=self.execution.rows_per_unit,
            seed=self.seed,
            purpose=purpose,
        )
        writer = open_writer(folder, COMPLETIONS, units, origin=self.origin)
        with self.progress(self.title, sum(len(u.rows) for u in units), "rows") as advance:
            fill_completions(
                writer,
                lambda: TransformersEngine.load(self.model, self.execution, self.vocab_size),
                {prompt.id: prompt for prompt in prompts},
                sampling,
                self.stop_ids,
                advance=advance,
            )
        writer.seal()
        return open_store(folder), writer.device_seconds()


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
    prompts = [p for p in open_prompts(run, source).values() if p.split in splits]
    check_limits(run, prompts, vocab_size=vocab_size(run))
    return Sampler.of_run(run, intent, model).fill(
        folder or run.folder(intent.stage),
        prompts[:limit],
        sampling,
        purpose=purpose or intent.stage,
    )


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
