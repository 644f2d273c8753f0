"""Optimisers and learning-rate schedules, the same settings for every task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
from lightning import Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from models.errors import ConfigError

Optimizer = Literal["adam", "adamw", "sgd", "muon"]
Schedule = Literal["cosine", "constant", "trapezoid"]


def make_optimizer(
    kind: str, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Adam, AdamW, SGD with momentum 0.9, or Muon for the matrices with AdamW for everything else, by name."""
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    match kind:
        case "adam":
            return torch.optim.Adam(parameters, learning_rate, weight_decay=weight_decay)
        case "adamw":
            return torch.optim.AdamW(parameters, learning_rate, weight_decay=weight_decay)
        case "sgd":
            return torch.optim.SGD(parameters, learning_rate, momentum=0.9, weight_decay=weight_decay)
        case "muon":
            return Muon(parameters, learning_rate, weight_decay=weight_decay)
    raise ConfigError("unknown optimiser", where="optimizer", expected="adam, adamw, sgd or muon", got=kind)


def rate(step: int, steps: int, warmup: float, schedule: str, falling: float = 0.25) -> float:
    """Factor on the learning rate: linear warm-up, then constant, half a cosine down to zero, or a trapezoid.

    The trapezoid is constant up to the last steps, a share of ``falling``, and falls straight to zero there (Hägele et al. 2024,
    arXiv:2405.18392): a run can go on for as long as it likes and then be told when to end.
    """
    rising = max(1, int(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    if schedule == "trapezoid":
        return min(1.0, max(0, steps - step) / max(1.0, falling * steps))
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, steps - rising))))


def scheduled(optimizer: torch.optim.Optimizer, factor: Callable[[int, int], float], trainer: Trainer) -> OptimizerLRScheduler:
    """What ``configure_optimizers`` returns: the rate is multiplied with ``factor(step, steps)`` at every step."""
    steps = int(trainer.estimated_stepping_batches)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, steps))
    return cast(OptimizerLRScheduler, {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}})


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal, for matrices and kernels (channels × what they see); AdamW for vectors and single numbers.

    Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", with the scale 0.2·√max(rows, columns) of
    Liu et al. 2025 (arXiv:2502.16982), so that learning rate and weight decay are those of AdamW. torch.optim.Muon does
    the same in bfloat16, which most processors have no instructions for, and takes no vectors.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    rows = parameter.shape[0] if parameter.ndim > 1 else 1
                    direction = self._matrix if min(rows, parameter.numel() // rows) > 3 else self._vector
                    parameter.add_(direction(parameter, parameter.grad, group["momentum"]), alpha=-group["lr"])
        return loss

    def _matrix(self, parameter: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        state = cast(dict[str, Any], self.state[parameter])
        mean = state.setdefault("momentum", torch.zeros_like(parameter)).mul_(momentum).add_(gradient, alpha=1 - momentum)
        direction = gradient.lerp(mean, momentum).flatten(1)
        matrix: Tensor = orthogonal(direction) * (0.2 * max(direction.shape) ** 0.5)
        return matrix.view_as(parameter)

    def _vector(self, parameter: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        state = cast(dict[str, Any], self.state[parameter])
        mean = state.setdefault("mean", torch.zeros_like(parameter)).mul_(0.9).add_(gradient, alpha=0.1)
        square = state.setdefault("square", torch.zeros_like(parameter)).mul_(0.99).addcmul_(gradient, gradient, value=0.01)
        state["steps"] = steps = state.get("steps", 0) + 1
        direction: Tensor = (mean / (1 - 0.9**steps)) / ((square / (1 - 0.99**steps)).sqrt() + 1e-8)
        return direction


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, nearly: singular values between 0.7 and 1.2, by Newton and Schulz's iteration.

    Each step multiplies the matrix by a polynomial of its own square. The squares alone follow from one another, so the long side
    is seen twice, not three times a step.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    square, eye = x @ x.T, torch.eye(len(x), dtype=x.dtype, device=x.device)
    product = eye
    for _ in range(steps):
        factor = a * eye + b * square + c * square @ square
        product, square = factor @ product, factor @ square @ factor
    x = product @ x
    return x.T if tall else x
