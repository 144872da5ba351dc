"""Rollouts made anew while training goes on: standard OPD, and anything between it and offline.

Every k steps the student answers the prompts of the next k steps and the teacher scores the
answers, into two stores like those of the rollout and score stages, so that a killed refresh
resumes and a batch is read, checked and trained on exactly as an offline one.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedModel

from leyden.data.batches import rows_of_step
from leyden.data.prompt_set import RenderedPrompt
from leyden.data.scored import ScoredRollouts, open_pair
from leyden.distributed.ranks import Ranks
from leyden.engines.transformers import TransformersEngine
from leyden.errors import StoreError
from leyden.files import TEMPORARY, disk_errors
from leyden.inference.fill import fill_completions
from leyden.inference.score import Scorer, fill_scores, units_like
from leyden.provenance.identity import derive_seed
from leyden.recipe.training import Objective
from leyden.run.artifacts import open_prompts, stop_ids, vocab_size
from leyden.run.run import ROLLOUT, SCORE, Run
from leyden.store.plan import PlanRow, Unit, cut_units
from leyden.store.reader import Store, open_store
from leyden.store.schema import COMPLETIONS, scores_schema
from leyden.store.writer import TIMINGS, StoreWriter, device_seconds, open_writer
from leyden.telemetry.clock import SAMPLING, SCORING, Clock

REFRESH = "refresh"


@dataclass
class Refresher:
    """Calling it with a step gives the scored rollouts that the step trains on, and its rows.

    The order of prompts is the one an offline arm has: (seed, epoch) over all prompts and samples.
    ``origin`` is the digest of the arm's intent.
    """

    run: Run
    student: PreTrainedModel
    settings: Objective
    seed: int
    folder: Path
    origin: str
    clock: Clock
    ranks: Ranks
    kept_steps: Callable[[], Sequence[int]]
    """The steps of the checkpoints on disk."""
    pair: ScoredRollouts | None = None
    first: int = -1
    """The step from which ``pair`` serves."""

    @cached_property
    def prompts(self) -> dict[str, RenderedPrompt]:
        return {p.id: p for p in open_prompts(self.run).values() if p.split == "opd"}

    @cached_property
    def scorer(self) -> Scorer:
        """The live teacher, loaded when it is first needed."""
        with_reference = self.settings.kl_to_reference > 0
        return Scorer.load(self.run, top_k=self.top_k, with_reference=with_reference)

    @property
    def top_k(self) -> int:
        """What the arm's loss reads, and no more."""
        return 0 if self.settings.objective == "sampled" else self.run.recipe.score.top_k

    def __call__(self, step: int) -> tuple[ScoredRollouts, range]:
        every, size = self.settings.refresh_every, self.settings.batch_size
        first = step - step % every
        if first != self.first:
            self._clear(step, first)
            self.pair, self.first = self._refresh(first, resumed=step > first), first
        assert self.pair is not None
        start = (step - first) * size
        return self.pair, range(start, start + size)

    def _clear(self, step: int, first: int) -> None:
        """Remove what a resume from a kept checkpoint cannot need: refreshes that ended before the
        oldest of them, and on resume those that began after ``step``, from another student."""
        if self.ranks.leads:
            oldest = min([step, *self.kept_steps()])
            home = self.folder / REFRESH
            for path in [p for p in home.glob("*") if not p.name.startswith(TEMPORARY)]:
                began = int(path.name)
                if began > first or began + self.settings.refresh_every <= oldest:
                    with disk_errors(path):  # renamed first: a kill leaves no half of a store
                        path.rename(home / f"{TEMPORARY}{path.name}")
            for path in home.glob(f"{TEMPORARY}*"):
                shutil.rmtree(path, ignore_errors=True)
        self.ranks.barrier()

    def _refresh(self, first: int, *, resumed: bool) -> ScoredRollouts:
        folder = self.folder / REFRESH / f"{first:06d}"
        if resumed and not (folder / SCORE / "SEALED.json").exists():
            raise StoreError(
                f"{folder}: the rollouts of the steps from {first + 1} on are gone",
                hint="delete the arm's newest checkpoint to resume from the one before",
            )
        rollouts = self._sample(folder / ROLLOUT, self._plan(first))
        scores = self._score(folder / SCORE, rollouts)
        for phase, store in ((SAMPLING, rollouts), (SCORING, scores)):
            self.clock.add(phase, device_seconds(store.folder / TIMINGS))  # as stages are counted
        read = {"vocab_size": vocab_size(self.run), "top_k": self.settings.top_k}
        return open_pair(rollouts, scores, split="opd", **read)

    def _plan(self, first: int) -> list[Unit]:
        """The prompts of the refresh's steps in training order; a prompt's n-th turn is its sample
        n."""
        settings, sampling = self.settings, self.run.recipe.rollout
        steps = range(first, min(first + settings.refresh_every, settings.steps))
        names, each = list(self.prompts), sampling.samples_per_prompt
        order = {"batch_size": settings.batch_size, "num_rows": len(names) * each}
        rows = [row for step in steps for row in rows_of_step(step, **order, seed=self.seed)]
        turns: Counter[str] = Counter()
        planned = []
        for name in (names[row // each] for row in rows):
            seed = derive_seed(self.run.recipe.seed, REFRESH, first, name, turns[name])
            planned.append(PlanRow(name, turns[name], seed))
            turns[name] += 1
        share = -(-len(planned) // self.ranks.world)
        return cut_units(planned, min(self.run.recipe.execution.rows_per_unit, share))

    def _sample(self, folder: Path, units: list[Unit]) -> Store:
        writer = self._open(folder, COMPLETIONS, units)
        fill_completions(
            writer,
            self._engine,
            self.prompts,
            self.run.recipe.rollout,
            stop_ids(self.run),
            mine=self._mine(writer.units),
        )
        return self._seal(writer)

    def _score(self, folder: Path, rollouts: Store) -> Store:
        schema = scores_schema(self.top_k, with_reference=self.settings.kl_to_reference > 0)
        units = units_like(rollouts, self.run.recipe.execution.rows_per_unit)
        writer = self._open(folder, schema, units)
        fill_scores(writer, rollouts, lambda: self.scorer, mine=self._mine(writer.units))
        return self._seal(writer)

    def _open(self, folder: Path, schema, units: list[Unit]) -> StoreWriter:
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

    def _engine(self) -> TransformersEngine:
        return TransformersEngine(self.student, self.run.recipe.execution, vocab_size(self.run))
