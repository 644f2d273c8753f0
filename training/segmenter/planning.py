"""A plan from the data: spacing, window, normalisation and classes, as nnU-Net chooses them (Isensee et al. 2021)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from models.errors import ConfigError
from models.segmenter.formats import open_volume
from models.segmenter.grid import Spacing
from models.segmenter.plan import Normalisation, Plan, Size
from models.segmenter.sampling import seen_shape
from models.segmenter.volume import Volume
from training.segmenter.annotation import Annotation
from training.segmenter.cases import Case

TILE = 8  # windows are multiples of it: three halvings
VOXELS = 96**3  # of a window, at most
SAMPLES = 10_000  # foreground voxels of each volume that "fixed" figures are taken from
COARSE = 3.0  # an axis so many times as coarse as the finest keeps its finer volumes' spacing

Values = Literal["auto", "volume", "fixed"]


def make_plan(
    cases: Sequence[Case], classes: list[str] | None, annotation: Annotation, values: Values = "auto", voxels: int = VOXELS
) -> Plan:
    """A plan for these volumes.

    Spacing is the median over the volumes, axis by axis; for an axis three times as coarse as the others, the 10 % percentile.
    None where no volume has one. The window is the median shape of what the network sees, made smaller axis by axis until it
    holds ``voxels`` at most. Values of volumes that go below -500 are taken for Hounsfield units where ``values`` is ``auto``.

    Args:
        cases: to train on.
        classes: names; None takes the labels that are found.
        annotation: what of the label maps counts.
        values: normalisation, see ``Normalisation.kind``.
        voxels: of a window, at most.
    """
    spacings: list[Spacing | None] = []
    grids: list[tuple[Volume, Size]] = []
    lowest, foreground, labels = np.inf, [], set[int]()
    generator = np.random.default_rng(0)
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            (inner := Path(folder) / "labels").mkdir()
            volume, mask = open_volume(case.image, Path(folder)), np.asarray(open_volume(case.label, inner).stored)
            spacings.append(None if volume.grid.spacing is None else volume.grid.turn.spacing(volume.grid.spacing))
            painted = mask > 0 if annotation.ignore is None else (mask > 0) & (mask != annotation.ignore)
            labels |= {int(label) for label in np.unique(mask)} - {annotation.ignore}
            inside = np.asarray(volume.stored)[painted].astype(np.float64) * volume.slope + volume.intercept
            if len(inside):
                foreground.append(generator.choice(inside, SAMPLES))
            lowest = min(lowest, float(volume.stored.min()) * volume.slope + volume.intercept)
            grids.append((Volume(volume.name, volume.kind, volume.grid, np.empty(0)), volume.grid.shape))
    spacing = _spacing(spacings)
    shapes = np.array([seen_shape(volume, volume.grid.turn, spacing) for volume, _ in grids])
    fixed = values == "fixed" or (values == "auto" and lowest < -500)
    return Plan(
        classes=classes or ["background", *(f"class_{label}" for label in range(1, max(labels) + 1))],
        spacing=spacing,
        window=_window(np.median(shapes, axis=0), spacing, voxels),
        normalisation=_fixed(foreground) if fixed else Normalisation(),
        oriented=all(volume.grid.affine is not None for volume, _ in grids),
    )


def _spacing(spacings: Sequence[Spacing | None]) -> Spacing | None:
    known = [each for each in spacings if each is not None]
    if not known:
        return None
    if len(known) < len(spacings):
        fix = "Write the spacing into the files' headers, or take it from all of them."
        raise ConfigError("some volumes do not say how far their voxels are apart", got=len(spacings) - len(known), fix=fix)
    median = np.median(known, axis=0)
    coarsest = int(np.argmax(median))
    if median[coarsest] > COARSE * np.delete(median, coarsest).max():
        median[coarsest] = max(np.percentile([each[coarsest] for each in known], 10), np.delete(median, coarsest).max())
    z, y, x = (round(float(value), 4) for value in median)
    return z, y, x


def _window(shape: np.ndarray, spacing: Spacing | None, voxels: int) -> Size:
    """Of the median shape's proportions in millimetres, so that context is alike in all directions."""
    size = np.maximum(TILE, np.ceil(shape / TILE) * TILE).astype(int)
    length = np.array(spacing or (1.0, 1.0, 1.0))
    while size.prod() > voxels and size.max() > TILE:
        size[int(np.argmax(np.where(size > TILE, size * length, 0)))] -= TILE
    return int(size[0]), int(size[1]), int(size[2])


def _fixed(foreground: Sequence[np.ndarray]) -> Normalisation:
    if not foreground:
        raise ConfigError("no foreground to take values from", expected="labels above 0, or normalisation by volume")
    values = np.concatenate(foreground)
    low, high = np.percentile(values, [0.5, 99.5]).tolist()
    return Normalisation(kind="fixed", low=low, high=high, mean=float(values.mean()), deviation=float(values.std()) or 1.0)
