"""The training loop: one forward and one backward per micro-batch, and nothing else."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Protocol

import torch

from leyden.config import Execution, Optimisation
from leyden.data.batches import collate, rows_of_step, split_by_tokens
from leyden.data.sequences import TokenSequence
from leyden.errors import EngineError
from leyden.metrics_file import METRICS, append_metrics, truncate_metrics
from leyden.train.checkpoint import ResumePoint, load_latest, save_checkpoint
from leyden.train.metrics import Sums, add, summarise
from leyden.train.objective import Totals, compute_loss
from leyden.train.optimizer import learning_rate, make_optimizer
from leyden.train.parallel import Ranks
from leyden.train.student import StudentLM

CHECKPOINTS = "checkpoints"


class Sequences(Protocol):
    """What is trained on: sequences by index, their columns aligned with completion tokens."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> TokenSequence: ...


@dataclass(frozen=True)
class Training:
    """Everything one run of the loop needs. ``folder`` takes metrics and checkpoints."""

    student: StudentLM
    data: Sequences
    heldout: Sequences
    settings: Optimisation
    seed: int
    folder: Path
    execution: Execution
    ranks: Ranks = field(default_factory=Ranks)
    progress: Callable[[int], None] = lambda tokens: None

    def run(self) -> ResumePoint:
        """Train from the newest checkpoint, or from the start, to the last step."""
        optimizer = make_optimizer(self.student, self.settings)
        point = load_latest(self.folder / CHECKPOINTS, self.student, optimizer)
        if self.ranks.leads:
            truncate_metrics(self.folder / METRICS, point.step)
        began = time.monotonic() - point.device_seconds / self.ranks.world
        if point.step == 0:
            self._log_heldout(0)
        for step in range(point.step, self.settings.steps):
            self._step(step, optimizer)
            done, every = step + 1, self.settings.eval_every
            last = done == self.settings.steps
            if last or (every and done % every == 0):
                self._log_heldout(done)
            point = ResumePoint(done, (time.monotonic() - began) * self.ranks.world)
            if last or done % self.settings.checkpoint_every == 0:
                self._checkpoint(optimizer, point)
        return point

    def _step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        rows = rows_of_step(
            step, batch_size=self.settings.batch_size, num_rows=len(self.data), seed=self.seed
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, self.settings)
        optimizer.zero_grad()
        sums = self._pass([self.data[row] for row in self._mine(rows)], len(rows), train=True)
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

    def _log_heldout(self, step: int) -> None:
        if len(self.heldout) < self.ranks.world:
            return
        mine = self._mine(range(len(self.heldout)))
        sums = self._pass([self.heldout[i] for i in mine], len(self.heldout), train=False)
        self._log(step, "heldout", summarise(sums))

    def _log(self, step: int, split: str, values: dict[str, Any]) -> None:
        if self.ranks.leads:
            append_metrics(self.folder / METRICS, {"step": step, "split": split, **values})

    def _checkpoint(self, optimizer: torch.optim.Optimizer, point: ResumePoint) -> None:
        if self.ranks.leads:
            save_checkpoint(self.folder / CHECKPOINTS, self.student, optimizer, point)
        self.ranks.barrier()
