"""Resume points: a new folder per step, complete only when its own record is there."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.errors import StoreError
from leyden.files import TEMPORARY, disk_errors, read_object, sync_folder, write_json
from leyden.identity import hash_file
from leyden.train.optimizer import optimizer_tensors, restore_optimizer

STATE, MODEL, OPTIMIZER = "state.json", "model.safetensors", "optimizer.safetensors"
KEEP = 2


@dataclass(frozen=True)
class ResumePoint:
    """``step`` optimizer steps are done, after ``device_seconds``."""

    step: int
    device_seconds: float


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
        hashes = {name: hash_file(aside / name) for name in (MODEL, OPTIMIZER)}
        os.replace(aside, final)
        sync_folder(folder)
    write_json(final / STATE, {**vars(point), "sha256": hashes})
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, path)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def load_latest(folder: Path, model: nn.Module, optimizer: Optimizer) -> ResumePoint:
    """Restore the newest complete checkpoint in place; step 0 without one."""
    complete = sorted(p.parent for p in folder.glob(f"step-*/{STATE}"))
    if not complete:
        return ResumePoint(step=0, device_seconds=0.0)
    state = read_object(complete[-1] / STATE, "step", "device_seconds", "sha256")
    for name, recorded in state["sha256"].items():
        if not (complete[-1] / name).exists() or hash_file(complete[-1] / name) != recorded:
            raise StoreError(
                f"{complete[-1] / name}: damaged: its sha256 is not the recorded {recorded[:12]}",
                hint="delete that step's folder to resume from the one before",
            )
    weights = load_file(complete[-1] / MODEL)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(weights[name])
    restore_optimizer(model, optimizer, load_file(complete[-1] / OPTIMIZER))
    return ResumePoint(step=state["step"], device_seconds=state["device_seconds"])
