"""Resume points: a new folder per step, complete only when its own record is there."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.errors import StoreError
from leyden.files import TEMPORARY, disk_errors, sync_folder
from leyden.provenance.identity import hash_file
from leyden.provenance.records import read_checked, write_checked
from leyden.train.optimizer import optimizer_tensors, restore_optimizer

STATE, MODEL, OPTIMIZER = "state.json", "model.safetensors", "optimizer.safetensors"
BEST = "best.safetensors"
CHECKPOINTS = "checkpoints"
KEEP = 2


@dataclass(frozen=True)
class ResumePoint:
    """``step`` optimizer steps are done, after ``seconds`` (phase -> device-seconds)."""

    step: int
    seconds: dict[str, float] = field(default_factory=dict)
    best: "Best | None" = None


@dataclass(frozen=True)
class Best:
    """The lowest held-out ``criterion`` so far, after ``step`` steps, and the model then."""

    step: int
    criterion: float
    tensors: dict[str, Tensor] = field(repr=False)


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: Optimizer, point: ResumePoint
) -> None:
    """Write ``folder/step-N`` aside, rename it, write its record last, then drop older ones."""
    final = folder / f"step-{point.step:06d}"
    aside = folder / f"{TEMPORARY}{final.name}"
    with disk_errors(final):
        for stale in (aside, final):
            shutil.rmtree(stale, ignore_errors=True)
        aside.mkdir(parents=True)
        save_tensors(dict(model.named_parameters()), aside / MODEL)
        save_tensors(optimizer_tensors(model, optimizer), aside / OPTIMIZER)
        if point.best is not None:
            save_tensors(point.best.tensors, aside / BEST)
        hashes = {path.name: hash_file(path) for path in sorted(aside.iterdir())}
        os.replace(aside, final)
        sync_folder(folder)
    best = point.best and {"step": point.best.step, "criterion": point.best.criterion}
    state = {"step": point.step, "seconds": point.seconds, "best": best, "sha256": hashes}
    write_checked(final / STATE, state)
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, path)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def load_latest(folder: Path, model: nn.Module, optimizer: Optimizer) -> ResumePoint:
    """Restore the newest complete checkpoint in place; step 0 without one."""
    complete = complete_checkpoints(folder)
    if not complete:
        return ResumePoint(step=0)
    state = read_checked(complete[-1] / STATE)
    for name, recorded in state["sha256"].items():
        if not (complete[-1] / name).exists() or hash_file(complete[-1] / name) != recorded:
            raise StoreError(
                f"{complete[-1] / name}: damaged: its sha256 is not the recorded {recorded[:12]}",
                hint="delete that step's folder to resume from the one before",
            )
    load_weights(model, load_file(complete[-1] / MODEL))
    restore_optimizer(model, optimizer, load_file(complete[-1] / OPTIMIZER))
    best = state["best"] and Best(**state["best"], tensors=load_file(complete[-1] / BEST))
    return ResumePoint(step=state["step"], seconds=state["seconds"], best=best)


def complete_checkpoints(folder: Path) -> list[Path]:
    """The step folders that can be resumed from, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{STATE}"))


def kept_steps(folder: Path) -> list[int]:
    """The steps after which a run can be resumed, oldest first."""
    return [int(path.name.removeprefix("step-")) for path in complete_checkpoints(folder)]


def load_weights(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy named tensors into the model's parameters."""
    for name, parameter in model.named_parameters():
        parameter.data.copy_(tensors[name])
