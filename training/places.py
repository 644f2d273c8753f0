"""Where a run is in its data: which batches a process draws, and which of them a resumed run has seen.

Batches and random numbers follow from (seed, epoch, number of the batch, process) alone. A checkpoint holds the place, and a run
that goes on from it draws what an uninterrupted one draws, also in the middle of an epoch.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any, Protocol, cast

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from models.errors import ConfigError

Place = tuple[int, int]  # epoch, number of the batch


class Order(Protocol):
    """What tells a ``Loader`` its batches, in an order that depends on the epoch."""

    epoch: int
    first: int


class Places(Sampler[Place]):
    """The batches of an epoch that belong to this process, from ``first`` on. Lightning tells the epoch."""

    def __init__(self, batches: int, rank: int = 0, world: int = 1) -> None:
        self.batches, self.rank, self.world, self.epoch, self.first = batches, rank, world, 0, 0

    def __len__(self) -> int:
        return self.batches // self.world

    def __iter__(self) -> Iterator[Place]:
        for number in range(self.first, len(self)):
            yield self.epoch, number * self.world + self.rank

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class Loader(DataLoader[Any]):
    """A loader of training batches that knows its place. Its sampler, of items or of batches, is an ``Order``."""

    _reached: Place | None = None  # the epoch, and how many of its batches have been handed out
    _loaded: Place | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # the base names a private class
        # What stands here runs when the first batch is asked for: Lightning makes iterators before it says which epoch it is.
        order = cast(Order, self.sampler if self.batch_sampler is None else self.batch_sampler)
        epoch, batches = self._loaded or (-1, 0)
        self._loaded = None
        order.first = batches if epoch == order.epoch else 0
        # Counted here and not in the sampler, which is ahead of the network where other processes make the batches.
        for number, batch in enumerate(super().__iter__(), order.first + 1):
            self._reached = order.epoch, number
            yield batch

    # Lightning keeps these too, but gives them back only to loaders that it makes after it has read the checkpoint; it makes them
    # before where a schedule asks how many steps there will be. With them it does not warn either.

    def state_dict(self) -> dict[str, int]:
        """The place."""
        epoch, batches = self._reached or (0, 0)
        return {"epoch": epoch, "batches": batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after that place."""
        self._loaded = self._reached = state["epoch"], state["batches"]


def loading(workers: int, prefetch: int) -> dict[str, Any]:
    """How a DataLoader makes batches; which ones they are does not depend on it.

    Args:
        workers: processes that make them; 0 makes them in the training process, while the network waits.
        prefetch: batches that each of them makes ahead.

    Raises:
        ConfigError: a number that is none.
    """
    for name, value, least in (("workers", workers, 0), ("prefetch", prefetch, 1)):
        if value < least:
            raise ConfigError("too few", where=name, expected=f"at least {least}", got=value)
    return {
        "num_workers": workers,
        "prefetch_factor": prefetch if workers else None,
        "persistent_workers": workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": _stay,
    }


class PlacedData(lightning.LightningDataModule):
    """A data module that keeps in checkpoints how far training has come in its batches."""

    _placed: Loader | None = None
    _place: dict[str, int] | None = None

    def placed(self, loader: Loader) -> Loader:
        """The training batches; they go on where a checkpoint says, if there is one.

        Raises:
            ConfigError: it is from the middle of an epoch whose batches were dealt out to another number of processes.
        """
        self._placed = loader
        if self._place is not None:
            self._refuse_other_processes(self._place)
            loader.load_state_dict(self._place)
        return loader

    def state_dict(self) -> dict[str, Any]:
        if self._placed is None:
            return {}
        return self._placed.state_dict() | {"of": len(self._placed), "processes": self._processes()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._place = state_dict if "batches" in state_dict else None

    def _refuse_other_processes(self, place: dict[str, int]) -> None:
        had, have = place.get("processes"), self._processes()  # older checkpoints do not tell
        if had not in (None, have) and place["batches"] < place["of"]:
            raise ConfigError(
                "the checkpoint is from the middle of an epoch of another number of processes",
                where="--ckpt_path",
                expected=f"{had} (trainer.devices times trainer.num_nodes), or a checkpoint from the end of an epoch",
                got=f"{have}, in epoch {place['epoch']} after {place['batches']} of {place['of']} batches",
            )

    def _processes(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size


def _stay(worker: int) -> None:
    """SIGTERM may reach every process of a run: those that make batches end with the first one, which needs them until then."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def draw_by_place(seed: int, epoch: int, batch: int, rank: int) -> None:
    """Let torch's random numbers depend on the place alone, so that dropout in a resumed run is that of an uninterrupted one.

    Not once an epoch: making an iterator over a loader draws a number too, at another time in a resumed run.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, batch, rank)).generate_state(1)[0]))
