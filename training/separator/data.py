"""The separator's data: mixtures drawn anew in each epoch to learn from, fixed lists to judge by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.errors import ConfigError
from training.places import Loader, Place, PlacedData, Places, loading
from training.processes import own_share
from training.separator.mixtures import FixedMixture, FixedMixtures, read_list
from training.separator.speech import DynamicMixtures, Mixing, Recordings


class Batch(NamedTuple):
    """Mixtures (batch, T) and their voices (batch, C, T)."""

    mixture: Tensor
    voices: Tensor


@dataclass
class MixtureList:
    """Fixed mixtures.

    Attributes:
        path: CSV or folder, see ``training.separator.mixtures``; or an fsspec address of one, as everywhere below.
        folder: what a CSV's paths are relative to; by default the folder that holds it.
        seconds: of each mixture only so much is used to judge; None for all.
        count: only the first so many; None for all.
    """

    path: str
    folder: str | None = None
    seconds: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            fix = "Leave it out for all."
            raise ConfigError("too few mixtures", where="count", expected="at least 1", got=self.count, fix=fix)


@dataclass
class Stage:
    """From which epoch on segments have which length. Short ones first learn faster.

    Attributes:
        epoch: first epoch of the stage.
        seconds: of a segment.
        batch_size: mixtures in a batch.
    """

    epoch: int
    seconds: float
    batch_size: int


class _Drawn(Dataset[Batch]):
    """Batches by their place."""

    def __init__(self, mixtures: DynamicMixtures | FixedMixtures, stages: Sequence[Stage]) -> None:
        self.mixtures, self.stages = mixtures, stages

    def __getitem__(self, place: Place) -> Batch:
        epoch, number = place
        stage = stage_of(self.stages, epoch)
        first = number * stage.batch_size
        drawn = [self.mixtures.draw(epoch, first + index, stage.seconds) for index in range(stage.batch_size)]
        return Batch(torch.stack([mixture for mixture, _ in drawn]), torch.stack([voices for _, voices in drawn]))


class _Fixed(Dataset[Batch]):
    """A list's mixtures, one at a time."""

    def __init__(self, mixtures: Sequence[FixedMixture], rate: int, seconds: float | None) -> None:
        self.mixtures, self.rate, self.seconds = mixtures, rate, seconds

    def __len__(self) -> int:
        return len(self.mixtures)

    def __getitem__(self, number: int) -> Batch:
        mixture, voices = self.mixtures[number].load(self.rate)
        stop = len(mixture) if self.seconds is None else round(self.seconds * self.rate)
        return Batch(mixture[None, :stop], voices[None, :, :stop])


class SeparatorData(PlacedData):
    """Speech for ``SeparatorModule``.

    Args:
        train: folder with one folder of recordings a speaker, of which mixtures are made on the fly; or fixed mixtures: a list or
            a folder of them, see ``training.separator.mixtures``.
        validation: list of fixed mixtures.
        test: list of fixed mixtures; by default that of the validation.
        sample_rate: Hz; files of other rates are resampled.
        mixing: how training mixtures are drawn.
        stages: lengths of segments and batches by epoch.
        batches: in an epoch, of all processes together.
        keep: hold decoded speech in memory (16 bits a sample), in each process that draws.
        cache: folder for decoded speech (16 bits a sample), which all processes and runs share and map, in place of ``keep``.
        workers: processes that draw mixtures; 0 draws in the training process.
        prefetch: batches that each of these processes makes ahead.
        seed: with the epoch and a mixture's number, all that a mixture depends on.
    """

    def __init__(
        self,
        train: str | MixtureList,
        validation: MixtureList,
        test: MixtureList | None = None,
        sample_rate: int = 8000,
        mixing: Mixing | None = None,
        stages: list[Stage] | None = None,
        batches: int = 500,
        keep: bool = True,
        cache: str | None = None,
        workers: int = 0,
        prefetch: int = 2,
        seed: int = 1,
    ) -> None:
        super().__init__()
        self.train, self.validation, self.test = train, validation, test or validation
        self.sample_rate, self.mixing = sample_rate, mixing or Mixing()
        self.stages = sorted(stages or [Stage(0, 4.0, 4)], key=lambda stage: stage.epoch)
        if self.stages[0].epoch != 0:
            raise ConfigError("no stage for the first epochs", where="stages", expected="one with epoch 0")
        self.batches, self.keep, self.cache, self.seed = batches, keep, cache, seed
        self.loading = loading(workers, prefetch)
        self.drawn: _Drawn | None = None

    def setup(self, stage: str | None = None) -> None:
        if stage in (None, "fit") and self.drawn is None:
            self.drawn = _Drawn(self._mixtures(), self.stages)

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        loader = Loader(
            cast(Any, self.drawn),
            batch_size=None,
            sampler=cast(Any, Places(self.batches, rank, world)),
            **self.loading,
        )
        return self.placed(loader)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._fixed(self.validation)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._fixed(self.test)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return Batch(batch.mixture.to(device, non_blocking=True), batch.voices.to(device, non_blocking=True))

    def _mixtures(self) -> DynamicMixtures | FixedMixtures:
        if isinstance(self.train, MixtureList):
            mixtures = read_list(self.train.path, self.train.folder)[: self.train.count]
            return FixedMixtures(mixtures, self.sample_rate, self.seed)
        speech = Recordings(self.train, self.sample_rate, self.keep, least=self.mixing.speakers, cache=self.cache)
        noise = Recordings(self.mixing.noise, self.sample_rate, self.keep, cache=self.cache) if self.mixing.noise else None
        return DynamicMixtures(speech, noise, self.mixing, self.seed)

    def _fixed(self, settings: MixtureList) -> DataLoader[Batch]:
        mixtures = read_list(settings.path, settings.folder)[: settings.count]
        mixtures = [mixtures[number] for number in own_share(len(mixtures), "mixtures", self.trainer)]
        return DataLoader(cast(Any, _Fixed(mixtures, self.sample_rate, settings.seconds)), batch_size=None, **self.loading)


def stage_of(stages: Sequence[Stage], epoch: int) -> Stage:
    """The last stage that has begun; ``stages`` by epoch."""
    return [stage for stage in stages if stage.epoch <= epoch][-1]
