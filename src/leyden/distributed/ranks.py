"""The processes that train one model together: one interface, and a body for each way to do it.

``Alone`` is one process, ``Replicated`` keeps a whole copy of the model in each of several. The
training loop knows the interface alone.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from leyden.models.load import pick_device

Sums = dict[str, Tensor]
# Ranks wait for each other while one samples held-out completions or finishes a larger unit. A rank
# that has died is noticed by torchrun, long before.
PATIENCE = timedelta(hours=12)


class Ranks(Protocol):
    """This process among ``world``. Every rank calls each method, in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    @property
    def leads(self) -> bool:
        """Whether this rank is the one that writes files and prints."""
        ...

    def wrap(self, module: nn.Module) -> None:
        """Prepare the module in place, before its optimizer is made."""
        ...

    def sum_number(self, value: int) -> int:
        """The sum over ranks."""
        ...

    def reduce(self, sums: Sums) -> Sums:
        """Sums over ranks; entries named ``min_`` or ``max_`` keep the extreme."""
        ...

    def reduce_gradients(self, module: nn.Module) -> None:
        """Sum every parameter's gradient over ranks. The loss was divided by global counts."""
        ...

    def clip(self, module: nn.Module, max_norm: float) -> Tensor:
        """Scale the summed gradient down to the norm ``max_norm``; its norm before that."""
        ...

    def gather(self, module: nn.Module) -> Sums:
        """The whole parameters by name, copied to the CPU."""
        ...

    def load(self, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Put whole parameters into the module."""
        ...

    def barrier(self) -> None:
        """Wait until every rank is here."""
        ...


class Whole:
    """Methods of the bodies that hold the whole model in each process."""

    def wrap(self, module: nn.Module) -> None:
        pass

    def clip(self, module: nn.Module, max_norm: float) -> Tensor:
        return torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm)

    def gather(self, module: nn.Module) -> Sums:
        return {name: p.detach().cpu().clone() for name, p in module.named_parameters()}

    def load(self, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in module.named_parameters():
            parameter.data.copy_(tensors[name])


@dataclass(frozen=True)
class Alone(Whole):
    """One process."""

    rank: int = 0
    world: int = 1
    leads: bool = True

    def sum_number(self, value: int) -> int:
        return value

    def reduce(self, sums: Sums) -> Sums:
        return sums

    def reduce_gradients(self, module: nn.Module) -> None:
        pass

    def barrier(self) -> None:
        pass


@dataclass(frozen=True)
class Replicated(Whole):
    """A whole copy of the model in each of ``world`` processes."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def sum_number(self, value: int) -> int:
        total = torch.tensor(value, dtype=torch.int64, device=self.device)
        dist.all_reduce(total)
        return int(total)

    def reduce(self, sums: Sums) -> Sums:
        # Sorted: every rank must exchange the same entry at the same time.
        return {name: _reduce(name, value.clone()) for name, value in sorted(sums.items())}

    def reduce_gradients(self, module: nn.Module) -> None:
        parameters = [p for p in module.parameters() if p.requires_grad]
        # A rank that did not use a parameter still takes part, with zeros.
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([g.flatten() for g in gradients])  # one message instead of hundreds
        dist.all_reduce(flat)
        parts = flat.split([p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def barrier(self) -> None:
        dist.barrier()


def join(device: str) -> Ranks:
    """Join the group that torchrun describes in the environment, or be alone."""
    world, place = int(os.environ.get("WORLD_SIZE", "1")), pick_device(device)
    if world == 1:
        return Alone()
    if not dist.is_initialized():
        gpu = place.type == "cuda"
        dist.init_process_group(
            "nccl" if gpu else "gloo", timeout=PATIENCE, device_id=place if gpu else None
        )
    return Replicated(dist.get_rank(), world, place)


def _reduce(name: str, value: Tensor) -> Tensor:
    operations = {"min_": dist.ReduceOp.MIN, "max_": dist.ReduceOp.MAX}
    dist.all_reduce(value, operations.get(name[:4], dist.ReduceOp.SUM))
    return value
