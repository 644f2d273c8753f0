"""Patches drawn from prepared volumes: which volume, around which voxel, changed how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.errors import ConfigError, DataFormatError
from models.segmenter.plan import Size
from training.places import Place
from training.segmenter.augmentation import Augmentation
from training.segmenter.losses import UNANNOTATED
from training.segmenter.prepared import Prepared


class Batch(NamedTuple):
    """Patches (batch, 1, z, y, x) and their labels (batch, z, y, x), ``UNANNOTATED`` where nothing counts."""

    volume: Tensor
    labels: Tensor


@dataclass
class Drawing:
    """How patches are drawn.

    Attributes:
        patch: voxels (z, y, x) of a patch; None takes the plan's window.
        foreground: share of patches around a voxel of a class that is drawn evenly among those of the volume, background apart.
        margin: voxels around a patch that deformations may draw in.
    """

    patch: Size | None = None
    foreground: float = 0.33
    margin: int = 6

    def __post_init__(self) -> None:
        if not 0 <= self.foreground <= 1:
            raise ConfigError("not a share", where="foreground", expected="0 to 1", got=self.foreground)


class Patches(Dataset[Batch]):
    """Batches of an epoch by their place, the same whoever draws them."""

    def __init__(
        self, cases: Sequence[Prepared], size: Size, batch_size: int, drawing: Drawing, change: Augmentation | None, seed: int
    ) -> None:
        self.cases = [case for case in cases if case.places]
        if not self.cases:
            raise DataFormatError("no volume has an annotated voxel", expected="labels, or slices that hold some")
        self.size, self.batch_size, self.drawing, self.change, self.seed = size, batch_size, drawing, change, seed

    def __getitem__(self, place: Place) -> Batch:
        epoch, number = place
        drawn = [self.draw((self.seed, epoch, number * self.batch_size + index)) for index in range(self.batch_size)]
        return Batch(torch.stack([volume for volume, _ in drawn]), torch.stack([labels for _, labels in drawn]))

    def draw(self, seed: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """One patch (1, z, y, x) and its labels (z, y, x).

        Patches of an epoch go through all volumes before one comes again.
        """
        epoch, number = seed[1:]
        order = np.random.default_rng((self.seed, epoch, number // len(self.cases))).permutation(len(self.cases))
        case = self.cases[order[number % len(self.cases)]]
        generator = np.random.default_rng(seed)
        margin = self.drawing.margin if self.change else 0
        start = self._start(case, generator)
        outer = [place - margin for place in start], [size + 2 * margin for size in self.size]
        image = torch.from_numpy(cut(case.image, *outer, filling=0.0))
        labels = torch.from_numpy(cut(case.labels, *outer, filling=UNANNOTATED)).long()
        if self.change:
            image, labels = self.change(image, labels, seed, self.size)
        inner = tuple(slice(margin, margin + size) for size in self.size)
        return image[inner][None].contiguous(), labels[inner].contiguous()

    def _start(self, case: Prepared, generator: np.random.Generator) -> list[int]:
        """First voxel of a patch: around a voxel of the foreground, or else of anything annotated, wherever it fits.

        A voxel that is drawn comes to lie anywhere in the patch, so that networks do not learn where the middle is.
        """
        classes = [label for label in case.places if label > 0]
        if classes and generator.random() < self.drawing.foreground:
            voxels = case.places[int(generator.choice(classes))]
        else:
            counts = np.array([len(each) for each in case.places.values()], float)
            voxels = list(case.places.values())[int(generator.choice(len(counts), p=counts / counts.sum()))]
        voxel = voxels[int(generator.integers(len(voxels)))]
        start = []
        for place, size, whole in zip(voxel.tolist(), self.size, case.labels.shape, strict=True):
            low, high = min(0, whole - size), max(0, whole - size)
            start.append(int(np.clip(place - generator.integers(size), low, high)))
        return start


def cut(array: np.ndarray, start: Sequence[int], size: Sequence[int], filling: float) -> np.ndarray:
    """A part of an array, filled where the array ends."""
    whole = np.full(size, filling, array.dtype)
    inside = [slice(max(0, a), max(0, min(a + s, n))) for a, s, n in zip(start, size, array.shape, strict=True)]
    places = tuple(slice(i.start - a, i.start - a + i.stop - i.start) for i, a in zip(inside, start, strict=True))
    whole[places] = array[tuple(inside)]
    return whole
