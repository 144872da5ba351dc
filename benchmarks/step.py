"""A training step from the store to the weights, against a bare loop over the same batches.

    python benchmarks/step.py RUN [--steps N] [--threads N]      # after `make demo`: runs/tiny

The arm trains by the paper's loss. The bare loop has its padded batches in memory as tensors, calls
the model and AdamW directly, and checks, logs and saves nothing. Both start from the reference
policy and must end in the same weights. Each line is the median of interleaved pairs, with the
smallest and the largest ratio.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from leyden.data.batches import TokenBatch, collate, rows_of_step, split_by_tokens
from leyden.data.prompt_set import OPD_SPLIT
from leyden.data.scored import ScoredRollouts, open_pair
from leyden.losses import sampled_loss
from leyden.models.load import load_model
from leyden.recipe.schema import Execution
from leyden.recipe.training import Objective
from leyden.run.artifacts import prompt_facts
from leyden.run.graph import resolve
from leyden.run.run import REFERENCE, Run
from leyden.store.reader import open_store
from leyden.train.loop import Training
from leyden.train.optimizer import learning_rate, make_optimizer
from leyden.train.student import StudentLM

PAIRS, SEED = 5, 0
CLOSE = 1e-4  # of a weight, after the last step

Steps = list[list[TokenBatch]]


class Bench:
    """Rollouts with their scores, a starting model, and the settings of an arm."""

    def __init__(self, run: Run, steps: int) -> None:
        arm = next(arm for arm in run.arms().values() if arm.objective == "sampled")
        own = {"steps": steps, "eval_every": 0, "patience": 0, "schedule": "constant"}
        self.settings = Objective.model_validate({**arm.model_dump(), **own})
        settings = run.recipe.execution.model_dump()
        self.execution = Execution.model_validate({**settings, "layout": "padded"})
        self.vocab_size = prompt_facts(resolve(run)).vocab_size
        self.root, self.place = run.root, run.place(REFERENCE)

    def data(self) -> ScoredRollouts:
        rollouts, scores = (open_store(self.root / name) for name in ("rollout", "score"))
        return open_pair(rollouts, scores, split=OPD_SPLIT, vocab_size=self.vocab_size)

    def model(self) -> PreTrainedModel:
        return load_model(self.place, device="cpu", dtype="float32")

    def training(self, folder: Path) -> Training:
        data = self.data()
        return Training(data, data, self.settings, SEED, folder, self.execution)

    def batches(self) -> Steps:
        """The micro-batches of every step, as leyden cuts them."""
        data, size = self.data(), self.settings.batch_size
        steps = []
        for step in range(self.settings.steps):
            rows = rows_of_step(step, batch_size=size, num_rows=len(data), seed=SEED)
            sequences = [data[row] for row in rows]
            budget = self.execution.batch_tokens
            groups = split_by_tokens([len(s) for s in sequences], budget=budget)
            steps.append([collate([sequences[i] for i in group]) for group in groups])
        return steps


def train_ours(bench: Bench, model: PreTrainedModel, training: Training) -> None:
    """The steps alone: opening the store, measuring and checkpoints come before and after."""
    chunk = bench.execution.logprob_chunk_tokens
    student = StudentLM(model, chunk=chunk, vocab_size=bench.vocab_size)
    optimizer = make_optimizer(student, bench.settings)
    for step in range(bench.settings.steps):
        data, rows = training._source(step)
        training._step(student, optimizer, step, [data[r] for r in rows], len(rows))


def train_bare(bench: Bench, model: PreTrainedModel, steps: Steps) -> None:
    """The same steps as anyone would write them for one model and one loss."""
    optimizer = make_optimizer(model, bench.settings)
    for step, batches in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, bench.settings)
        optimizer.zero_grad()
        for batch in batches:
            bare_loss(bench, model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), bench.settings.grad_clip)
        optimizer.step()


def bare_loss(bench: Bench, model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """The mean over a step's sequences of the mean loss of their tokens: one micro-batch's part."""
    logits = model(input_ids=batch.ids_BT, attention_mask=batch.attention_mask_BT).logits
    logits_NV = logits.flatten(0, 1)[batch.predict_N][:, : bench.vocab_size]
    logp_N = logits_NV.log_softmax(-1).gather(-1, batch.target_N[:, None])[:, 0]
    assert batch.columns is not None
    loss_N = sampled_loss(logp_N, batch.columns.teacher.logp, clip=bench.settings.advantage_clip)
    return (loss_N / batch.lengths_N).sum() / bench.settings.batch_size


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def difference(one: PreTrainedModel, other: PreTrainedModel) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench = Bench(Run.open(arguments.run), arguments.steps)
    steps = bench.batches()
    times: list[tuple[float, float]] = []
    gap = 0.0
    for _ in range(PAIRS + 1):
        ours, bare = bench.model(), bench.model()
        with tempfile.TemporaryDirectory() as folder:
            training = bench.training(Path(folder))
            mine = seconds(lambda: train_ours(bench, ours, training))  # noqa: B023
        times.append((mine, seconds(lambda: train_bare(bench, bare, steps))))  # noqa: B023
        gap = difference(ours, bare)
        assert gap < CLOSE, f"the two ended {gap:.2g} apart"
    ratios = sorted(a / b for a, b in times[1:])
    mine, theirs = (
        1e3 * statistics.median(c) / arguments.steps for c in zip(*times[1:], strict=True)
    )
    print(f"a step: leyden {mine:.1f} ms, bare {theirs:.1f} ms, ratio {mine / theirs:.2f}", end=" ")
    print(f"[{ratios[0]:.2f}, {ratios[-1]:.2f}]; weights within {gap:.1g}")


if __name__ == "__main__":
    main()
