"""What processes of a distributed run tell one another."""

from __future__ import annotations

from typing import cast

import lightning
from torch import Tensor

from models.errors import ConfigError


def mean_over_processes(module: lightning.LightningModule, numbers: Tensor) -> Tensor:
    """Each number's mean over the processes; the numbers themselves where there is one process.

    DDP averages gradients over processes. A loss that is a mean over the tokens or voxels of each process's own batch would
    count those of a small batch for more: divided by the mean of the counts instead, it is the mean over all batches' tokens.
    """
    trainer = module._trainer  # None where a step is called without a trainer
    if trainer is None or trainer.world_size == 1:
        return numbers
    return cast(Tensor, trainer.strategy.reduce(numbers.detach().clone(), reduce_op="mean"))


def own_share(count: int, what: str, trainer: lightning.Trainer | None) -> range:
    """The numbers of what this process judges: each goes to one process, none to two, so that sums over processes are exact.

    Raises:
        ConfigError: there are fewer than processes.
    """
    rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
    if count < world:
        expected = f"at least {world}, one for each process"
        raise ConfigError(
            f"too few {what} to judge by", where="devices", expected=expected, got=count, fix="Use fewer processes."
        )
    return range(rank, count, world)
