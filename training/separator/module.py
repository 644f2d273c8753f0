"""The separator as a Lightning module: losses under permutation invariance, figures, optimiser, sound in TensorBoard."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from models.separator.network import ConvTasNet, ConvTasNetSettings
from models.separator.transformer import DualPathSettings
from training.optimizers import Optimizer, Schedule, make_optimizer, rate, scheduled
from training.places import draw_by_place
from training.separator.data import Batch, SeparatorData
from training.separator.export import OVERLAP_SECONDS, WINDOW_SECONDS, preprocessing_of
from training.separator.filterbank import gammatones, synthesis
from training.separator.growth import grown, meaning
from training.separator.losses import permutation_invariant, si_snr, weighted
from training.start import start_from

SHOWN = 3  # mixtures whose sound and spectrogram go to TensorBoard


class SeparatorModule(lightning.LightningModule):
    """Trains ``models.separator.network.ConvTasNet``.

    Args:
        network: its settings.
        loss: weights of the losses, by name: si_snr, snr, thresholded_snr, thresholded_si_snr, mse.
        limit: dB at which the thresholded losses saturate.
        every_repeat: weight of the mean loss of the voices as they would be if the network ended after each repeat but the
            last (Nachmani et al. 2020, arXiv:2003.01531); 0 for none.
        start: bundle whose weights the network begins with, instead of random ones or gammatones; it may have fewer repeats
            (``training.separator.growth``).
        gammatone: sample rate, Hz, for which encoder and decoder begin as a gammatone filterbank
            (``training.separator.filterbank``); None for random filters.
        optimizer: adam, adamw, sgd (with momentum 0.9) or muon.
        learning_rate: at the peak of the schedule.
        weight_decay: of the optimiser.
        warmup: share of the steps in which the rate rises from zero.
        schedule: cosine down to zero, constant, or a trapezoid, after the warm-up; see ``training.optimizers.rate``.
        falling: share of the steps in which a trapezoid goes down.
        compile: let torch compile the network, which takes a minute first and halves a step's time.
        window_seconds: for the exported bundle: longer recordings come apart in windows of so much (not where causal).
        overlap_seconds: of two windows, by which their voices are matched.
    """

    def __init__(
        self,
        network: ConvTasNetSettings,
        loss: dict[str, float] | None = None,
        limit: float = 30.0,
        every_repeat: float = 0.0,
        start: str | None = None,
        gammatone: int | None = None,
        optimizer: Optimizer = "adam",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        warmup: float = 0.02,
        schedule: Schedule = "cosine",
        falling: float = 0.25,
        compile: bool = False,
        window_seconds: float = WINDOW_SECONDS,
        overlap_seconds: float = OVERLAP_SECONDS,
    ) -> None:
        super().__init__()
        self.settings = network
        self.loss = loss or {"si_snr": 1.0}
        self.measure = weighted(self.loss, limit)
        self.every_repeat = every_repeat
        self.optimizer, self.learning_rate, self.weight_decay = optimizer, learning_rate, weight_decay
        self.rate = partial(rate, warmup=warmup, schedule=schedule, falling=falling)
        self.network = ConvTasNet(network)
        if start:
            start_from(self.network, start, meaning, adapt=grown)
        elif gammatone:
            filters = gammatones(network.filters, network.length, gammatone)
            self.network.encoder.data.copy_(filters)
            self.network.decoder.data.copy_(synthesis(filters, network.step, rectified=network.encoder == "relu"))
        run = self.network.each_repeat if every_repeat else self._last
        self.run = torch.compile(run, dynamic=False) if compile else run
        self.windows = {"window_seconds": window_seconds, "overlap_seconds": overlap_seconds}
        preprocessing_of(network, 8000, **self.windows)  # better now than at the export
        self.sums: dict[str, Tensor] = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        data = getattr(self.trainer, "datamodule", None)
        checkpoint["task"] = "separator"
        checkpoint["separator"] = {
            "settings": asdict(self.settings),
            "sample_rate": data.sample_rate if isinstance(data, SeparatorData) else None,
            **self.windows,
        }

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any]) -> SeparatorModule:
        """The trained module of a loaded checkpoint, in evaluation mode."""
        settings = dict(checkpoint["separator"]["settings"])
        transformer = settings.pop("transformer", None)
        nested = DualPathSettings(**transformer) if transformer else None
        module = cls(ConvTasNetSettings(**settings, transformer=nested))
        module.load_state_dict(checkpoint["state_dict"])
        return module.eval()

    def forward(self, mixture: Tensor) -> Tensor:
        """(batch, T) → (batch, C, T)."""
        voices: Tensor = self.network(mixture)
        return voices

    # Steps

    def on_fit_start(self) -> None:
        self.seed = torch.initial_seed()  # that of `seed_everything`

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        draw_by_place(self.seed, self.current_epoch, batch_idx, self.global_rank)  # dropout of a dual-path transformer

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        *before, last = self.run(batch.mixture)
        loss = permutation_invariant(self.measure, last, batch.voices)[0].mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.mixture))
        if not before:
            return loss
        early = [permutation_invariant(self.measure, voices, batch.voices)[0].mean() for voices in before]
        return loss + self.every_repeat * torch.stack(early).mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._judge("validation", batch)
        if batch_idx < SHOWN:
            self._show(batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._judge("test", batch)

    def on_validation_epoch_end(self) -> None:
        self._report("validation")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = make_optimizer(self.optimizer, self.parameters(), self.learning_rate, self.weight_decay)
        return scheduled(optimizer, self.rate, self.trainer)

    # In detail

    def _last(self, mixture: Tensor) -> list[Tensor]:
        return [self.network(mixture)]

    def _judge(self, part: str, batch: Batch) -> None:
        """Add up improvements: SI-SNR of the voices over that of the mixture itself."""
        loss, _ = permutation_invariant(si_snr, self.network(batch.mixture), batch.voices)
        unseparated = si_snr(batch.mixture.unsqueeze(1), batch.voices).mean(1)
        sums = torch.stack([(unseparated - loss).sum(), loss.new_tensor(float(len(loss)))]).double()
        self.sums[part] = self.sums.get(part, torch.zeros_like(sums)) + sums

    def _report(self, part: str) -> None:
        if part in self.sums:
            # Sums, not means of means: exact whatever the number of processes.
            improvement, count = self.trainer.strategy.reduce(self.sums.pop(part), reduce_op="sum").tolist()
            self.log(f"{part}/si_snri", improvement / count, prog_bar=True, sync_dist=True)

    def _show(self, batch: Batch, number: int) -> None:
        """Sound and log spectrogram of the mixture and of each voice to TensorBoard."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(self.logger, TensorBoardLogger) or not isinstance(data, SeparatorData):
            return
        for name, samples in {"mixture": batch.mixture[0], **_named(self.network(batch.mixture)[0])}.items():
            samples = samples.float().cpu() / samples.abs().max().clamp(min=1e-6).cpu()
            place = f"{number}/{name}"
            self.logger.experiment.add_audio(place, samples, self.global_step, data.sample_rate)
            self.logger.experiment.add_image(place, spectrogram(samples), self.global_step, dataformats="HW")


def spectrogram(samples: Tensor, size: int = 256, range_db: float = 60.0) -> Tensor:
    """(T) → (size/2 + 1, frames) between 0 and 1, low frequencies at the bottom."""
    padded = torch.nn.functional.pad(samples, (0, max(0, size - len(samples))))
    power = torch.stft(padded, size, size // 2, window=torch.hann_window(size), return_complex=True).abs().square()
    level = 10 * torch.log10(power.clamp(min=1e-10))
    return ((level - level.max()) / range_db + 1).clamp(0, 1).flip(0)


def _named(voices: Tensor) -> dict[str, Tensor]:
    return {f"voice_{number}": voice for number, voice in enumerate(voices, 1)}
