"""Resume points: a new folder per step, complete only when its own record is there."""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from leyden.errors import StoreError
from leyden.files import TEMPORARY, disk_errors, sync_folder
from leyden.provenance.identity import hash_file
from leyden.provenance.records import read_checked, write_checked

STATE, MODEL, OPTIMIZER = "state.json", "model.safetensors", "optimizer.safetensors"
BEST = "best.safetensors"
STEP = re.compile(r"step-[0-9]{6,}")
KEEP = 2  # the newest, and one to go back to should it be damaged


@dataclass(frozen=True)
class Best:
    """The lowest held-out ``criterion`` so far, after ``step`` steps, and the model then."""

    step: int
    criterion: float
    tensors: Mapping[str, Tensor] = field(repr=False)


@dataclass(frozen=True)
class ResumePoint:
    """``step`` optimizer steps are done, after ``seconds`` (phase -> device-seconds)."""

    step: int
    seconds: dict[str, float] = field(default_factory=dict)
    best: Best | None = None

    @property
    def kept_step(self) -> int:
        """The step whose model is kept when training ends here."""
        return self.best.step if self.best else self.step


@dataclass(frozen=True)
class Checkpoint:
    """A resume point with the tensors to go on from. Both are by name, on the CPU.

    ``metrics`` describes the file of metrics up to there (``telemetry/metrics.py``).
    """

    point: ResumePoint
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    metrics: Mapping[str, Any] | None = None


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write ``folder/step-N`` aside, rename it, write its record last, then drop older ones."""
    point = checkpoint.point
    final = folder / f"step-{point.step:06d}"
    aside = folder / f"{TEMPORARY}{final.name}"
    with disk_errors(final):
        for stale in (aside, final):  # of an attempt that was killed; a record is still missing
            shutil.rmtree(stale, ignore_errors=True)
        aside.mkdir(parents=True)
        save_tensors(checkpoint.model, aside / MODEL)
        save_tensors(checkpoint.optimizer, aside / OPTIMIZER)
        if point.best is not None:
            save_tensors(point.best.tensors, aside / BEST)
        hashes = {path.name: hash_file(path) for path in sorted(aside.iterdir())}
        os.replace(aside, final)
        sync_folder(folder)
    best = point.best and {"step": point.best.step, "criterion": point.best.criterion}
    state: dict[str, Any] = {"step": point.step, "seconds": point.seconds, "best": best}
    state |= {"sha256": hashes, "metrics": checkpoint.metrics}
    write_checked(final / STATE, state)
    steps = [path for path in folder.glob("step-*") if STEP.fullmatch(path.name)]
    for old in sorted(steps)[:-KEEP]:  # six digits: names sort as numbers
        shutil.rmtree(old)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Save named tensors from any device, and wait until they are on the disk."""
    save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, path)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint, or None. Raises StoreError where it is damaged."""
    complete = complete_checkpoints(folder)
    if not complete:
        return None
    state = _checked_state(complete[-1])
    best = state["best"] and Best(**state["best"], tensors=load_file(complete[-1] / BEST))
    return Checkpoint(
        ResumePoint(state["step"], state["seconds"], best),
        load_file(complete[-1] / MODEL),
        load_file(complete[-1] / OPTIMIZER),
        state.get("metrics"),
    )


def _checked_state(checkpoint: Path) -> dict[str, Any]:
    state = read_checked(checkpoint / STATE)
    for name, recorded in state["sha256"].items():
        if not (checkpoint / name).exists() or hash_file(checkpoint / name) != recorded:
            raise StoreError(
                f"{checkpoint / name}: damaged: its sha256 is not the recorded {recorded[:12]}",
                hint="delete that step's folder to resume from the one before",
            )
    return state


def complete_checkpoints(folder: Path) -> list[Path]:
    """The step folders that can be resumed from, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{STATE}"))


def kept_steps(folder: Path) -> list[int]:
    """The steps after which a run can be resumed, oldest first."""
    return [int(path.name.removeprefix("step-")) for path in complete_checkpoints(folder)]
