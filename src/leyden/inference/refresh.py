"""Rollouts made anew while training goes on: standard OPD, and anything between it and offline.

Every k steps the student writes completions of the prompts of the next k steps, and the teacher
scores them. Both go into stores like those of the rollout and score stages, so that a killed
refresh resumes, and a batch is read, checked and trained on exactly as an offline one.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from leyden.data.batches import rows_of_step
from leyden.data.prompt_set import OPD_SPLIT, PromptFacts, RenderedPrompt
from leyden.data.scored import ScoredRollouts, open_pair
from leyden.distributed.ranks import Ranks
from leyden.engines.base import Engine
from leyden.errors import StoreError
from leyden.files import TEMPORARY, disk_errors
from leyden.inference.fill import fill_completions
from leyden.inference.score import Scorer, fill_scores, units_like
from leyden.provenance.identity import derive_seed
from leyden.recipe.training import Objective
from leyden.run.artifacts import open_prompts, prompt_facts
from leyden.run.graph import Graph
from leyden.run.layout import REFRESH, refresh_folder
from leyden.run.stage import ROLLOUT, SCORE
from leyden.store.plan import PlanRows, Unit, cut_units
from leyden.store.reader import Store, is_sealed, open_store
from leyden.store.schema import COMPLETIONS, Schema
from leyden.store.writer import StoreWriter, device_seconds, open_writer
from leyden.telemetry.clock import SAMPLING, SCORING, Clock


@dataclass
class Refresher:
    """Gives each step the scored rollouts that it trains on.

    The order of prompts is that of an offline arm: (seed, epoch) over all prompts and samples.
    ``student`` samples with the weights as they are. ``origin`` is the digest of the arm's intent.
    """

    graph: Graph
    student: Engine
    settings: Objective
    seed: int
    folder: Path
    origin: str
    clock: Clock
    ranks: Ranks
    pair: ScoredRollouts | None = None
    first: int = -1
    """The first step that trains on ``pair``."""

    @cached_property
    def prompts(self) -> dict[str, RenderedPrompt]:
        return {p.id: p for p in open_prompts(self.graph).values() if p.split == OPD_SPLIT}

    @cached_property
    def facts(self) -> PromptFacts:
        return prompt_facts(self.graph)

    @cached_property
    def scorer(self) -> Scorer:
        """The live teacher. Its model is loaded when it is first needed."""
        return Scorer.open(self.graph, top_k=self.top_k, with_reference=self.with_reference)

    @property
    def with_reference(self) -> bool:
        return self.settings.kl_to_reference > 0

    @property
    def top_k(self) -> int:
        """As many ids as the arm's loss reads, and no more."""
        recipe = self.graph.run.recipe
        return 0 if self.settings.objective == "sampled" else recipe.score.top_k

    def close(self) -> None:
        """Give back the memory of the live teacher, if it was loaded."""
        if "scorer" in vars(self):
            self.scorer.close()

    def source(self, step: int, kept_steps: Sequence[int]) -> tuple[ScoredRollouts, range]:
        """The scored rollouts for ``step``, and its rows among them.

        ``kept_steps`` are the steps of the checkpoints on disk, which a resume may go back to.
        """
        every, size = self.settings.refresh_every, self.settings.batch_size
        first = step - step % every
        if first != self.first:
            self._clear(first, oldest=min([step, *kept_steps]))
            self.pair, self.first = self._refresh(first, resumed=step > first), first
        assert self.pair is not None
        start = (step - first) * size
        return self.pair, range(start, start + size)

    def _clear(self, first: int, *, oldest: int) -> None:
        """Remove refreshes that no resume can need. They ended before the ``oldest`` step to resume
        from, or they began after ``first``, from another student."""
        if self.ranks.leads:
            home = self.folder / REFRESH
            for path in [p for p in home.glob("*") if p.name.isdigit()]:
                began = int(path.name)
                if began > first or began + self.settings.refresh_every <= oldest:
                    with disk_errors(path):  # renamed first: a kill leaves no half of a store
                        path.rename(home / f"{TEMPORARY}{path.name}")
            for path in home.glob(f"{TEMPORARY}*"):
                shutil.rmtree(path, ignore_errors=True)
        self.ranks.barrier()

    def _refresh(self, first: int, *, resumed: bool) -> ScoredRollouts:
        folder = refresh_folder(self.folder, first)
        if resumed and not is_sealed(folder / str(SCORE)):
            raise StoreError(
                f"{folder}: the rollouts of the steps from {first + 1} on are gone",
                hint="delete the arm's newest checkpoint to resume from the one before",
            )
        rollouts = self._sample(folder / str(ROLLOUT), self._plan(first))
        scores = self._score(folder / str(SCORE), rollouts)
        if not resumed:  # the checkpoint that was resumed from has counted them
            for phase, store in ((SAMPLING, rollouts), (SCORING, scores)):
                self.clock.add(phase, device_seconds(store.folder))  # as stages are counted
        return open_pair(
            rollouts,
            scores,
            split=OPD_SPLIT,
            vocab_size=self.facts.vocab_size,
            top_k=self.settings.top_k,
        )

    def _plan(self, first: int) -> list[Unit]:
        """The prompts of the refresh's steps in training order. A prompt that comes again gets the
        next sample number."""
        settings, recipe = self.settings, self.graph.run.recipe
        steps = range(first, min(first + settings.refresh_every, settings.steps))
        names, each = list(self.prompts), recipe.rollout.samples_per_prompt
        order = {"batch_size": settings.batch_size, "num_rows": len(names) * each}
        rows = [row for step in steps for row in rows_of_step(step, **order, seed=self.seed)]
        turns: Counter[str] = Counter()
        planned = []
        for name in (names[row // each] for row in rows):
            seed = derive_seed(recipe.seed, REFRESH, first, name, turns[name])
            planned.append((name, turns[name], seed))
            turns[name] += 1
        # At least one unit for every rank, so that all of them sample.
        share = -(-len(planned) // self.ranks.world)
        return cut_units(PlanRows.of(planned), min(recipe.execution.rows_per_unit, share))

    def _sample(self, folder: Path, units: list[Unit]) -> Store:
        writer = self._open(folder, COMPLETIONS, units)
        fill_completions(
            writer,
            self.student,
            self.prompts,
            self.graph.run.recipe.rollout,
            self.facts.stop_ids,
            vocab_size=self.facts.vocab_size,
            mine=self._mine(writer.units),
        )
        return self._seal(writer)

    def _score(self, folder: Path, rollouts: Store) -> Store:
        units = units_like(rollouts, self.graph.run.recipe.execution.rows_per_unit)
        writer = self._open(folder, self.scorer.schema, units)
        fill_scores(writer, rollouts, self.scorer, mine=self._mine(writer.units))
        return self._seal(writer)

    def _open(self, folder: Path, schema: Schema, units: list[Unit]) -> StoreWriter:
        """The leading rank begins the store; the others join it."""
        if self.ranks.leads:
            open_writer(folder, schema, units, origin=self.origin)
        self.ranks.barrier()
        return open_writer(folder, schema, units, origin=self.origin)

    def _seal(self, writer: StoreWriter) -> Store:
        self.ranks.barrier()
        if self.ranks.leads:
            writer.seal()
        self.ranks.barrier()
        return open_store(writer.folder)

    def _mine(self, units: Sequence[Unit]) -> Sequence[Unit]:
        return units[self.ranks.rank :: self.ranks.world]
