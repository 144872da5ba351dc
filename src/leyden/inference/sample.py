"""Sample a model's completions into a store of its own: teach, rollout and evaluate share this."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden.data.prompt_set import RenderedPrompt
from leyden.engines.base import Engine, EngineSpec, Role, require_offer
from leyden.inference.fill import fill_completions
from leyden.inference.leader import Leader
from leyden.inference.noted import note_engine
from leyden.inference.selftest import prove
from leyden.provenance.records import Intent
from leyden.recipe.sampling import Sampling
from leyden.run.artifacts import open_prompts, prompt_facts
from leyden.run.fits import check_limits
from leyden.run.graph import Graph
from leyden.run.stage import PROMPTS
from leyden.store.plan import Unit, make_plan
from leyden.store.reader import Store, open_store
from leyden.store.schema import COMPLETIONS
from leyden.store.writer import StoreWriter, join_writer, open_writer
from leyden.telemetry.progress import Progress


@dataclass(frozen=True)
class Sampler:
    """A model behind an engine, and everything beside the prompts that decides its completions.

    ``origin`` is the digest of the intent that its stores are made from. ``title`` is for screens.
    Where a ``context`` is given, in tokens, completions end where it does.
    """

    engine: Engine
    spec: EngineSpec
    stop_ids: Sequence[int]
    vocab_size: int
    seed: int
    rows_per_unit: int
    origin: str
    title: str
    progress: Progress
    context: int | None = None

    @classmethod
    def of_run(
        cls, graph: Graph, intent: Intent, role: Role, model: str, context: int | None = None
    ) -> "Sampler":
        """``model`` of the run, sampled by the engine that plays ``role``."""
        run, facts = graph.run, prompt_facts(graph)
        spec = run.spec(role, model, facts.vocab_size)
        return cls(
            run.open_engine(spec),
            spec,
            facts.stop_ids,
            facts.vocab_size,
            run.recipe.seed,
            run.recipe.execution.rows_per_unit,
            intent.digest,
            intent.stage,
            run.progress,
            context,
        )

    def fill(
        self,
        folder: Path,
        prompts: Sequence[RenderedPrompt],
        sampling: Sampling,
        *,
        purpose: str,
    ) -> tuple[Store, float]:
        """Make or finish the store of completions of ``prompts``; the store, its device-seconds.

        ``purpose`` goes into every row's seed: another purpose gets other samples.
        """
        units = self._plan(prompts, sampling, purpose)
        writer = open_writer(folder, COMPLETIONS, units, origin=self.origin)
        self._fill(writer, prompts, sampling)
        writer.seal()
        return open_store(folder), writer.device_seconds()

    def help(
        self,
        folder: Path,
        prompts: Sequence[RenderedPrompt],
        sampling: Sampling,
        *,
        purpose: str,
        leader: Leader,
    ) -> None:
        """Sample units of a store that the ``leader`` has begun, or is about to begin. It returns
        when every unit is committed, or the leader has gone."""
        units = self._plan(prompts, sampling, purpose)
        writer = leader.wait_for(
            lambda: join_writer(folder, COMPLETIONS, units, origin=self.origin)
        )
        if writer is not None:
            self._fill(writer, prompts, sampling)

    def _plan(
        self, prompts: Sequence[RenderedPrompt], sampling: Sampling, purpose: str
    ) -> list[Unit]:
        require_offer(self.engine, "sample", self.title)
        return make_plan(
            [prompt.id for prompt in prompts],
            samples=sampling.samples_per_prompt,
            rows_per_unit=self.rows_per_unit,
            seed=self.seed,
            purpose=purpose,
        )

    def _fill(
        self, writer: StoreWriter, prompts: Sequence[RenderedPrompt], sampling: Sampling
    ) -> None:
        def prepare() -> None:
            proof = prove(self.engine, self.spec, (p.ids for p in prompts), self.stop_ids)
            note_engine(writer.folder, self.engine, proof)

        with self.progress(self.title, sum(len(u.rows) for u in writer.units), "rows") as advance:
            fill_completions(
                writer,
                self.engine,
                {prompt.id: prompt for prompt in prompts},
                sampling,
                self.stop_ids,
                vocab_size=self.vocab_size,
                context=self.context,
                devices=self.spec.devices,
                prepare=prepare,
                advance=advance,
            )


@dataclass(frozen=True)
class Samples:
    """A store of completions that a stage makes, of a model on the prompts of ``splits``."""

    role: Role
    model: str
    sampling: Sampling
    splits: Sequence[str]
    folder: Path
    limit: int | None = None
    purpose: str = ""

    def make(self, graph: Graph, intent: Intent) -> tuple[Store, float]:
        """Make or finish the store; it, sealed, and its device-seconds."""
        with self._sampler(graph, intent) as (sampler, prompts):
            purpose = self.purpose or intent.stage
            return sampler.fill(self.folder, prompts, self.sampling, purpose=purpose)

    def help(self, graph: Graph, intent: Intent, leader: Leader) -> None:
        """Make units of the store that another process leads."""
        with self._sampler(graph, intent) as (sampler, prompts):
            purpose = self.purpose or intent.stage
            sampler.help(self.folder, prompts, self.sampling, purpose=purpose, leader=leader)

    @contextmanager
    def _sampler(
        self, graph: Graph, intent: Intent
    ) -> Iterator[tuple[Sampler, list[RenderedPrompt]]]:
        prompts = [p for p in open_prompts(graph, PROMPTS).values() if p.split in self.splits]
        check_limits(graph.run, prompts, vocab_size=prompt_facts(graph).vocab_size)
        sampler = Sampler.of_run(graph, intent, self.role, self.model)
        with closing(sampler.engine):
            yield sampler, prompts[: self.limit]


def sample_counts(store: Store) -> dict[str, Any]:
    """The counts that a sampling stage records about its store."""
    by_split: Counter[str] = Counter()
    for split, length in zip(store.values("split"), store.lengths("completion_ids"), strict=True):
        by_split[split] += length
    return {
        "rows": len(store),
        "tokens": store.num_tokens,
        "split_tokens": dict(by_split),
        "truncated": store.values("finish_reason").count("length"),
    }
