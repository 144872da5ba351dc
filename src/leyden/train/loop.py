"""The training loop: one forward and one backward per micro-batch, and nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Protocol

import torch

from leyden.data.batches import collate, rows_of_step, split_by_tokens
from leyden.data.sequences import TokenSequence
from leyden.distributed.ranks import Ranks
from leyden.errors import ConfigError, EngineError
from leyden.recipe.schema import Execution
from leyden.recipe.training import Optimisation
from leyden.telemetry.clock import MEASURING, TRAINING, Clock
from leyden.telemetry.metrics import METRICS, append_metrics, criterion, truncate_metrics
from leyden.train.checkpoint import (
    CHECKPOINTS,
    Best,
    ResumePoint,
    load_latest,
    load_weights,
    save_checkpoint,
)
from leyden.train.metrics import Sums, add, summarise
from leyden.train.objective import Totals, compute_loss
from leyden.train.optimizer import learning_rate, make_optimizer
from leyden.train.student import StudentLM


class Sequences(Protocol):
    """What is trained on: sequences by index, their columns aligned with completion tokens."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> TokenSequence: ...


Source = Callable[[int], tuple[Sequences, Sequence[int]]]
"""Optimizer step, from 0 -> the sequences it draws from and its rows among them."""


@dataclass(frozen=True)
class Training:
    """Everything one run of the loop needs. ``folder`` takes metrics and checkpoints.

    Each step takes the next rows of ``data`` in the order of (seed, epoch), or, given ``fresh``,
    what that answers for the step. ``probe`` adds what it measures to each held-out line, and
    ``measured`` is called when the line is written.
    """

    student: StudentLM
    data: Sequences
    heldout: Sequences
    settings: Optimisation
    seed: int
    folder: Path
    execution: Execution
    fresh: Source | None = None
    probe: Callable[[], dict[str, float]] = dict
    measured: Callable[[], None] = lambda: None
    clock: Clock = field(default_factory=Clock)
    ranks: Ranks = field(default_factory=Ranks)
    progress: Callable[[int], None] = lambda tokens: None

    def run(self) -> ResumePoint:
        """Train from the newest checkpoint, or from the start, to the last step; with patience,
        perhaps not so far, and the student is the best one measured."""
        if self.settings.patience and len(self.heldout) < self.ranks.world:
            raise ConfigError(
                f"{self.folder}: patience needs held-out answers, and there are none",
                hint="raise prompts.heldout or the length cap, or set patience = 0",
            )
        optimizer = make_optimizer(self.student, self.settings)
        point = load_latest(self.folder / CHECKPOINTS, self.student, optimizer)
        self.clock.restore(point.seconds, weight=self.ranks.world)
        if self.ranks.leads:
            truncate_metrics(self.folder / METRICS, point.step)
        best = point.best
        if point.step == 0:
            best = self._measure(0, best)
        for step in range(point.step, self.settings.steps):
            if self._lost_patience(best, step):
                break
            data, rows = self._source(step)
            with self.clock.phase(TRAINING):
                self._step(step, data, rows, optimizer)
            done, every = step + 1, self.settings.eval_every
            last = done == self.settings.steps
            if last or (every and done % every == 0):
                best = self._measure(done, best)
            point = ResumePoint(done, dict(self.clock.seconds), best)
            if last or done % self.settings.checkpoint_every == 0:
                self._checkpoint(optimizer, point)
        if best is not None:
            load_weights(self.student, best.tensors)
        return point

    def _source(self, step: int) -> tuple[Sequences, Sequence[int]]:
        if self.fresh is not None:
            return self.fresh(step)
        size, seed = self.settings.batch_size, self.seed
        return self.data, rows_of_step(step, batch_size=size, num_rows=len(self.data), seed=seed)

    def _step(
        self, step: int, data: Sequences, rows: Sequence[int], optimizer: torch.optim.Optimizer
    ) -> None:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, self.settings)
        optimizer.zero_grad()
        sums = self._pass([data[row] for row in self._mine(rows)], len(rows), train=True)
        self.ranks.sum_gradients(self.student)
        norm = torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.settings.grad_clip)
        if not torch.isfinite(norm):
            raise EngineError(
                f"{self.folder}: the gradient of step {step + 1} is {norm.item()}",
                hint="lower the learning rate, or clip the advantage harder",
            )
        optimizer.step()
        learned = {"learning_rate": learning_rate(step, self.settings), "grad_norm": norm.item()}
        self._log(step + 1, "train", summarise(sums) | learned)
        self.progress(int(sums["tokens"]))

    def _pass(self, sequences: Sequence[TokenSequence], num_sequences: int, *, train: bool) -> Sums:
        """Forward (and backward) over micro-batches; metric sums over all ranks."""
        num_tokens = self.ranks.sum_number(sum(len(s.completion_ids) for s in sequences))
        totals = Totals(num_sequences, num_tokens)
        layout, budget = self.execution.layout, self.execution.batch_tokens
        parts = []
        for group in split_by_tokens([len(s) for s in sequences], budget=budget, layout=layout):
            batch = collate([sequences[i] for i in group], layout=layout)
            batch = batch.to(self.student.model.device)
            with torch.set_grad_enabled(train):
                loss, sums = compute_loss(self.student, batch, self.settings, totals)
            if train:
                loss.backward()
            parts.append(sums)
        return self.ranks.merge(reduce(add, parts))

    def _mine(self, rows: Sequence[int]) -> Sequence[int]:
        return rows[self.ranks.rank :: self.ranks.world]

    def _measure(self, step: int, best: Best | None) -> Best | None:
        """Log the held-out loss; with patience, the better of ``best`` and the student now."""
        if len(self.heldout) < self.ranks.world:
            return best
        with self.clock.phase(MEASURING):
            mine = self._mine(range(len(self.heldout)))
            sums = self._pass([self.heldout[i] for i in mine], len(self.heldout), train=False)
            found = summarise(sums)
            self._log(step, "heldout", found | (self.probe() if self.ranks.leads else {}))
        if self.ranks.leads:
            self.measured()
        if self.settings.patience and (best is None or criterion(found) < best.criterion):
            tensors = {n: p.detach().cpu().clone() for n, p in self.student.named_parameters()}
            return Best(step, criterion(found), tensors)
        return best

    def _lost_patience(self, best: Best | None, step: int) -> bool:
        """Whether as many measurements followed ``best``, up to ``step``, as we wait for."""
        if best is None:
            return False
        every = self.settings.eval_every
        return step // every - best.step // every >= self.settings.patience

    def _log(self, step: int, split: str, values: dict[str, Any]) -> None:
        if self.ranks.leads:
            append_metrics(self.folder / METRICS, {"step": step, "split": split, **values})

    def _checkpoint(self, optimizer: torch.optim.Optimizer, point: ResumePoint) -> None:
        if self.ranks.leads:
            save_checkpoint(self.folder / CHECKPOINTS, self.student, optimizer, point)
        self.ranks.barrier()
