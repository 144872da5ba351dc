"""The training loop: one forward and one backward per micro-batch, and nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Protocol

import torch

from leyden.data.batches import collate, rows_of_step, split_by_tokens
from leyden.data.sequences import TokenSequence
from leyden.distributed.ranks import Alone, Ranks
from leyden.errors import ConfigError, EngineError
from leyden.recipe.schema import Execution
from leyden.recipe.training import Optimisation
from leyden.run.layout import CHECKPOINTS, METRICS
from leyden.telemetry.clock import MEASURING, TRAINING, Clock
from leyden.telemetry.metrics import (
    append_metrics,
    criterion,
    restore_metrics,
    seal_metrics,
    truncate_metrics,
)
from leyden.train.checkpoint import Best, Checkpoint, ResumePoint, load_latest, save_checkpoint
from leyden.train.metrics import Sums, add, summarise
from leyden.train.objective import Totals, compute_loss
from leyden.train.optimizer import (
    learning_rate,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
)
from leyden.train.student import StudentLM


class Sequences(Protocol):
    """Training data: sequences by index, their columns aligned with completion tokens."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> TokenSequence: ...


class Hooks:
    """An arm's additions to the loop. By default there are none, which is enough for SFT."""

    refreshes = False
    """Whether its steps train on fresh sequences, and ``data`` is not used."""

    def begin(self, student: StudentLM) -> None:
        """Called once, before the first step, with the student that will be trained."""

    def fresh(self, step: int) -> tuple[Sequences, Sequence[int]] | None:
        """Sequences for optimizer step ``step`` (from 0) and its rows among them; None where the
        step trains on the stored data."""
        return None

    def probe(self) -> dict[str, float]:
        """Measurements of the student to add to a held-out line of the metrics."""
        return {}

    def measured(self) -> None:
        """Called when a held-out line has been written, on the leading rank."""


@dataclass(frozen=True)
class Training:
    """Everything about one run of the loop but the student. ``folder`` takes metrics and
    checkpoints.

    Each step takes the next rows of ``data`` in the order of (seed, epoch), unless ``hooks`` give
    it fresh ones. ``progress`` is told how many more steps are done.
    """

    data: Sequences
    heldout: Sequences
    settings: Optimisation
    seed: int
    folder: Path
    execution: Execution
    hooks: Hooks = field(default_factory=Hooks)
    clock: Clock = field(default_factory=Clock)
    ranks: Ranks = field(default_factory=Alone)
    progress: Callable[[int], None] = lambda steps: None

    def run(self, student: StudentLM) -> ResumePoint:
        """Train from the newest checkpoint, or from the start, to the last step.

        With patience training may stop before, and the student is then the best one measured.
        """
        if self.settings.patience and len(self.heldout) < self.ranks.world:
            raise ConfigError(
                f"{self.folder}: patience needs a held-out completion for each of "
                f"{self.ranks.world} ranks, and there are {len(self.heldout)}",
                hint="raise prompts.heldout or the length cap, or set patience = 0",
            )
        optimizer = make_optimizer(student, self.settings)
        point = self._resume(student, optimizer)
        self.hooks.begin(student)
        best = point.best
        if point.step == 0:
            best = self._measure(student, 0, best)
        for step in range(point.step, self.settings.steps):
            if self._lost_patience(best, step):  # before the step: a resume decides the same
                break
            data, rows = self._source(step)
            with self.clock.phase(TRAINING):
                self._step(student, optimizer, step, [data[r] for r in self._mine(rows)], len(rows))
            done, every = step + 1, self.settings.eval_every
            last = done == self.settings.steps
            if last or (every and done % every == 0):
                best = self._measure(student, done, best)
            point = ResumePoint(done, dict(self.clock.seconds), best)
            if last or done % self.settings.checkpoint_every == 0:
                self._checkpoint(student, optimizer, point)
        if best is not None:
            self.ranks.load(student, best.tensors)
        return point

    def _resume(self, student: StudentLM, optimizer: torch.optim.Optimizer) -> ResumePoint:
        checkpoint = load_latest(self.folder / CHECKPOINTS)
        point = checkpoint.point if checkpoint else ResumePoint(step=0)
        if checkpoint:
            self.ranks.load(student, checkpoint.model)
            restore_optimizer(student, optimizer, checkpoint.optimizer)
        self.clock.restore(point.seconds, weight=self.ranks.world)
        self.progress(point.step)
        if self.ranks.leads:  # lines after the checkpoint belong to steps that are done again
            if checkpoint and checkpoint.metrics:
                restore_metrics(self.folder / METRICS, checkpoint.metrics)
            else:
                truncate_metrics(self.folder / METRICS, point.step)
        return point

    def _source(self, step: int) -> tuple[Sequences, Sequence[int]]:
        fresh = self.hooks.fresh(step)
        if fresh is not None:
            return fresh
        size, seed = self.settings.batch_size, self.seed
        return self.data, rows_of_step(step, batch_size=size, num_rows=len(self.data), seed=seed)

    def _step(
        self,
        student: StudentLM,
        optimizer: torch.optim.Optimizer,
        step: int,
        sequences: Sequence[TokenSequence],
        num_sequences: int,
    ) -> None:
        """One optimizer step on this rank's ``sequences`` of a batch of ``num_sequences``."""
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, self.settings)
        optimizer.zero_grad()
        sums = self._pass(student, sequences, num_sequences, train=True)
        self.ranks.reduce_gradients(student)
        norm = self.ranks.clip(student, self.settings.grad_clip)
        if not torch.isfinite(norm):  # a step with it would ruin weights and Adam's moments
            raise EngineError(
                f"{self.folder}: the gradient of step {step + 1} is {norm.item()}",
                hint="lower the learning rate, or clip the advantage harder",
            )
        optimizer.step()
        learned = {"learning_rate": learning_rate(step, self.settings), "grad_norm": norm.item()}
        self._log(step + 1, "train", summarise(sums) | learned)
        self.progress(1)

    def _pass(
        self,
        student: StudentLM,
        sequences: Sequence[TokenSequence],
        num_sequences: int,
        *,
        train: bool,
    ) -> Sums:
        """Forward (and backward) over micro-batches; metric sums over all ranks."""
        # The loss is divided by counts of the whole batch, so gradients of parts simply add up.
        num_tokens = self.ranks.sum_number(sum(len(s.completion_ids) for s in sequences))
        totals = Totals(num_sequences, num_tokens)
        layout, budget = self.execution.layout, self.execution.batch_tokens
        parts = []
        for group in split_by_tokens([len(s) for s in sequences], budget=budget, layout=layout):
            batch = collate([sequences[i] for i in group], layout=layout).to(student.model.device)
            with torch.set_grad_enabled(train):
                loss, sums = compute_loss(
                    student, batch, self.settings, totals, measuring=not train
                )
            if train:
                loss.backward()
            parts.append(sums)
        return self.ranks.reduce(reduce(add, parts))

    def _mine(self, rows: Sequence[int]) -> Sequence[int]:
        return rows[self.ranks.rank :: self.ranks.world]

    def _measure(self, student: StudentLM, step: int, best: Best | None) -> Best | None:
        """Log the held-out loss; with patience, the better of ``best`` and the student now."""
        if len(self.heldout) < self.ranks.world:  # a rank without rows would have no sums
            return best
        with self.clock.phase(MEASURING):
            mine = [self.heldout[i] for i in self._mine(range(len(self.heldout)))]
            values = summarise(self._pass(student, mine, len(self.heldout), train=False))
            self._log(step, "heldout", values | (self.hooks.probe() if self.ranks.leads else {}))
        if self.ranks.leads:
            self.hooks.measured()
        if self.settings.patience and (best is None or criterion(values) < best.criterion):
            return Best(step, criterion(values), self.ranks.gather(student))
        return best

    def _lost_patience(self, best: Best | None, step: int) -> bool:
        """Whether enough measurements, up to ``step``, have followed the best one."""
        if best is None:
            return False
        every = self.settings.eval_every
        return step // every - best.step // every >= self.settings.patience

    def _log(self, step: int, split: str, values: dict[str, Any]) -> None:
        if self.ranks.leads:
            append_metrics(self.folder / METRICS, {"step": step, "split": split, **values})

    def _checkpoint(
        self, student: StudentLM, optimizer: torch.optim.Optimizer, point: ResumePoint
    ) -> None:
        tensors = self.ranks.gather(student)  # every rank takes part
        if self.ranks.leads:
            state = optimizer_tensors(student, optimizer)
            metrics = seal_metrics(self.folder / METRICS)
            save_checkpoint(self.folder / CHECKPOINTS, Checkpoint(point, tensors, state, metrics))
        self.ranks.barrier()
