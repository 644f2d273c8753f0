"""Which batches of an epoch a process draws, where batches are made on the fly from their place."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

Place = tuple[int, int]  # epoch, number of the batch


class Places(Sampler[Place]):
    """The batches of an epoch that belong to this process. Lightning tells the epoch."""

    def __init__(self, batches: int, rank: int = 0, world: int = 1) -> None:
        self.batches, self.rank, self.world, self.epoch = batches, rank, world, 0

    def __len__(self) -> int:
        return self.batches // self.world

    def __iter__(self) -> Iterator[Place]:
        for number in range(len(self)):
            yield self.epoch, number * self.world + self.rank

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
