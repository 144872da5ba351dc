"""AdamW with its schedule, and its state as plain named tensors."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from leyden.recipe.training import Optimisation

FINAL_SHARE = 0.1  # cosine ends at this share of the peak


def make_optimizer(model: nn.Module, settings: Optimisation) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    # Vectors are norm gains and biases; pulling those towards zero is no regularisation.
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2)
    )


def learning_rate(step: int, settings: Optimisation) -> float:
    """The rate of optimizer step ``step``, from 0: linear warm-up, then constant or cosine."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    length = max(1, settings.steps - settings.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * (step - settings.warmup_steps) / length))
    return settings.learning_rate * (FINAL_SHARE + (1 - FINAL_SHARE) * cosine)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state on the CPU, by names such as ``WEIGHT/exp_avg``."""
    return {
        f"{name}/{key}": torch.as_tensor(value).detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put the state that ``optimizer_tensors`` gave back in place."""
    parameters = dict(model.named_parameters())
    for path, value in tensors.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        # AdamW keeps its step count on the CPU, whatever the parameter's device.
        target = value if key == "step" else value.to(parameter.device)
        optimizer.state[parameter][key] = target.clone()
