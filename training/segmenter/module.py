"""The segmenter as a Lightning module: losses at several depths, whole volumes judged window by window, optimiser."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from models.errors import ConfigError
from models.segmenter.network import UNet, UNetSettings
from models.segmenter.plan import Plan, Size
from models.segmenter.tiling import Floats
from models.segmenter.whole import Layout, decide, score_volume
from training.optimizers import Optimizer, Schedule, make_optimizer, rate, scheduled
from training.processes import mean_over_processes
from training.segmenter.data import SegmenterData
from training.segmenter.losses import UNANNOTATED, Loss
from training.segmenter.memory import recompute_pairs
from training.segmenter.patches import Batch, cut
from training.segmenter.prepared import Prepared
from training.start import start_from


class SegmenterModule(lightning.LightningModule):
    """Trains ``models.segmenter.network.UNet``.

    Args:
        network: its settings; ``classes`` are those of the plan.
        loss: what is learned by.
        start: bundle whose weights the network begins with, instead of random ones.
        optimizer: adam, adamw, sgd (with momentum 0.9) or muon.
        learning_rate: at the peak of the schedule.
        weight_decay: of the optimiser.
        warmup: share of the steps in which the rate rises from zero.
        schedule: cosine down to zero, constant, or a trapezoid, after the warm-up; see ``training.optimizers.rate``.
        falling: share of the steps in which a trapezoid goes down.
        compile: let torch compile the network.
        channels_last: keep channels side by side in memory, for GPUs; on a CPU it made a step no faster.
        recompute: keep no activations inside the pairs of convolutions, and compute them again for the gradient: larger patches
            for more time (activation checkpointing, Chen et al. 2016, arXiv:1604.06174). Not with batch norm, which would count
            every batch twice.
        overlap: of the windows of volumes that are judged during training.
    """

    def __init__(
        self,
        network: UNetSettings,
        loss: Loss | None = None,
        start: str | None = None,
        optimizer: Optimizer = "adamw",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        warmup: float = 0.02,
        schedule: Schedule = "cosine",
        falling: float = 0.25,
        compile: bool = False,
        channels_last: bool = False,
        recompute: bool = False,
        overlap: float = 0.25,
    ) -> None:
        super().__init__()
        self.settings, self.loss, self.overlap = network, loss or Loss(), overlap
        self.optimizer, self.learning_rate, self.weight_decay = optimizer, learning_rate, weight_decay
        self.rate = partial(rate, warmup=warmup, schedule=schedule, falling=falling)
        self.network = UNet(network)
        if start:
            start_from(self.network, start, meaning)
        if channels_last:
            self.network.to(memory_format=torch.channels_last_3d)  # of the kernels; activations follow
        if recompute:
            recompute_pairs(self.network)
        self.run = torch.compile(self.network.each_head, dynamic=False) if compile else self.network.each_head
        self.plan: Plan | None = None
        self.sums: dict[str, Tensor] = {}

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, SegmenterData) and data.plan is not None:
            self.plan = data.plan
            self._fits(data.plan)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["task"] = "segmenter"
        checkpoint["segmenter"] = {
            "settings": asdict(self.settings),
            "plan": self.plan.model_dump(mode="json") if self.plan else None,
        }

    def forward(self, volume: Tensor) -> Tensor:
        """(batch, channels, z, y, x) → scores before softmax (batch, classes, z, y, x)."""
        scores: Tensor = self.network(volume)
        return scores

    # Steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        scores = [each.float() for each in self.run(batch.volume)]
        loss = self.loss(scores, self._covered(batch.labels, scores[0]), partial(mean_over_processes, self))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.volume))
        return loss

    def validation_step(self, batch: Prepared, batch_idx: int) -> None:
        self._judge("validation", batch)

    def test_step(self, batch: Prepared, batch_idx: int) -> None:
        self._judge("test", batch)

    def on_validation_epoch_end(self) -> None:
        self._report("validation")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = make_optimizer(self.optimizer, self.parameters(), self.learning_rate, self.weight_decay)
        return scheduled(optimizer, self.rate, self.trainer)

    # In detail

    def _fits(self, plan: Plan) -> None:
        """Refuse at the start what would fail after hours."""
        if len(plan.classes) != self.settings.classes:
            fix = "Set network.classes to the number of the plan's classes."
            expected = f"{len(plan.classes)} classes: {', '.join(plan.classes[:9])}"
            raise ConfigError(
                "the network gives other classes", where="network.classes", expected=expected, got=self.settings.classes, fix=fix
            )
        tile = self.settings.tile
        if self.settings.padding and any(size % step for size, step in zip(plan.window, tile, strict=True)):
            expected = f"multiples of {tile} (what the network halves)"
            raise ConfigError("the window does not fit the network", where="plan: window", expected=expected, got=plan.window)

    def _covered(self, labels: Tensor, scores: Tensor) -> Tensor:
        """Labels (batch, z, y, x) of the middle that an unpadded network scores."""
        parts = [slice((a - b) // 2, (a - b) // 2 + b) for a, b in zip(labels.shape[1:], scores.shape[2:], strict=True)]
        return labels[(slice(None), *parts)]

    def _judge(self, part: str, case: Prepared) -> None:
        """Add up Dice of each class that the annotation holds, and how many cases hold it."""
        found = self.segment(case.image)
        annotated = case.labels != UNANNOTATED
        sums = torch.zeros(self.settings.classes, 2, dtype=torch.float64)
        for label in range(1, self.settings.classes):
            a, b = (found == label) & annotated, case.labels == label
            if b.any():
                sums[label] = torch.tensor([2 * (a & b).sum() / (a.sum() + b.sum()), 1.0])
        self.sums[part] = self.sums.get(part, torch.zeros_like(sums)) + sums

    def segment(self, image: Floats) -> np.ndarray:
        """A prepared volume (z, y, x) → its labels, by the network as it is now."""
        assert self.plan is not None
        shape = (image.shape[0], image.shape[1], image.shape[2])
        labels = np.zeros(shape, np.int16)
        layout = self.layout(shape, self.overlap)
        for strip in score_volume(partial(cut, image, filling=0.0), self.scores, layout, self.settings.classes):
            _, z, y, _ = strip.scores.shape
            labels[strip.z : strip.z + z, strip.y : strip.y + y] = decide(strip.scores)
        return labels

    def layout(self, shape: Size, overlap: float) -> Layout:
        """How windows cover a volume (z, y, x) that has been prepared."""
        assert self.plan is not None
        return Layout(shape, self.plan.window, self._margin(), overlap)

    def scores(self, window: Floats) -> Floats:
        """A window (1, z, y, x) → scores before softmax (classes, z, y, x)."""
        with torch.no_grad(), self.trainer.precision_plugin.forward_context() if self._trainer else torch.no_grad():
            scores = self.network(torch.from_numpy(window)[None].to(self.device))
        values: Floats = scores[0].float().cpu().numpy()
        return values

    def _margin(self) -> Size:
        """Voxels that an unpadded network loses on each side of a window."""
        assert self.plan is not None
        if self.settings.padding:
            return 0, 0, 0
        with torch.no_grad():
            scores = UNet(self.settings).to("meta")(torch.zeros(1, self.settings.in_channels, *self.plan.window, device="meta"))
        z, y, x = ((whole - kept) // 2 for whole, kept in zip(self.plan.window, scores.shape[2:], strict=True))
        return z, y, x

    def _report(self, part: str) -> None:
        if part not in self.sums or self.plan is None:
            return
        # Sums, not means of means: exact whatever the number of processes.
        sums = self.trainer.strategy.reduce(self.sums.pop(part), reduce_op="sum")
        means = []
        for label, (dice, count) in enumerate(sums.tolist()):
            if count:
                means.append(dice / count)
                self.log(f"{part}/dice_{self.plan.classes[label]}", means[-1], sync_dist=True)
        self.log(f"{part}/dice", float(np.mean(means)) if means else 0.0, prog_bar=True, sync_dist=True)


def meaning(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of ``UNetSettings`` that change what weights mean."""
    told = {name: value for name, value in settings.items() if name not in ("initialisation", "statistics")}
    return {**told, "steps": settings["steps"] or [(2, 2, 2)] * (len(settings["channels"]) - 1)}
