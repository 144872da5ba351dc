"""Data parallelism over processes; with launch.py the only file that knows torch.distributed."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from leyden.models.load import pick_device


@dataclass(frozen=True)
class Ranks:
    """This process among ``world``; with one, every method does nothing."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    @classmethod
    def join(cls, device: str) -> "Ranks":
        """Join the group that torchrun describes in the environment, or be alone."""
        world, place = int(os.environ.get("WORLD_SIZE", "1")), pick_device(device)
        if world == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
        return cls(dist.get_rank(), world, str(place))

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def sum_number(self, value: int) -> int:
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.int64, device=self.device)
        dist.all_reduce(total)
        return int(total)

    def sum_gradients(self, model: nn.Module) -> None:
        """Add every parameter's gradient over ranks, one flat bucket per dtype."""
        if self.world == 1:
            return
        parameters = [p for p in model.parameters() if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        for parameter, part in zip(
            parameters, flat.split([p.numel() for p in parameters]), strict=True
        ):
            parameter.grad = part.view_as(parameter).clone()

    def merge(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums add over ranks; ``min_`` and ``max_`` entries keep the extreme."""
        if self.world == 1:
            return sums
        return {name: _reduce(name, value.clone()) for name, value in sorted(sums.items())}


def _reduce(name: str, value: Tensor) -> Tensor:
    operations = {"min_": dist.ReduceOp.MIN, "max_": dist.ReduceOp.MAX}
    dist.all_reduce(value, operations.get(name[:4], dist.ReduceOp.SUM))
    return value
