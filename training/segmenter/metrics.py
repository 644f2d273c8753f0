"""How well label maps agree: Dice, IoU, 95 % Hausdorff distance, normalised surface Dice, for each class of a case.

Every figure is defined where a class is absent: in both maps it is right (Dice, IoU and surface Dice 1, distance 0), in one it is
wrong (0, and the volume's diagonal as distance). Voxels without annotation count for nothing; distances need whole annotation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects, generate_binary_structure

from training.segmenter.losses import UNANNOTATED

Mask = NDArray[np.bool_]
Labels = NDArray[np.integer]
PERCENTILE = 95.0


@dataclass(frozen=True)
class Agreement:
    """Figures of one class in one case.

    Attributes:
        dice: 2·|A ∩ B| / (|A| + |B|).
        iou: |A ∩ B| / |A ∪ B|.
        hd95: larger of the two directed 95 % percentiles of distances between the surfaces, mm; None for sparse annotation.
        surface_dice: share of both surfaces that lies within the tolerance of the other; None for sparse annotation.
        wanted: voxels of the class in the annotation.
        found: voxels of the class in the answer, where annotated.
    """

    dice: float
    iou: float
    hd95: float | None
    surface_dice: float | None
    wanted: int
    found: int


def agreement(
    found: Labels, wanted: Labels, label: int, spacing: Sequence[float] = (1.0, 1.0, 1.0), tolerance: float = 1.0
) -> Agreement:
    """Compare one class of two label maps (z, y, x).

    Args:
        found: the answer.
        wanted: the annotation, ``UNANNOTATED`` where there is none.
        label: the class.
        spacing: mm between voxels along each axis.
        tolerance: of the surface Dice, mm.
    """
    annotated = wanted != UNANNOTATED
    a, b = (found == label) & annotated, wanted == label
    both, size_a, size_b = int((a & b).sum()), int(a.sum()), int(b.sum())
    either = size_a + size_b - both
    dice = 2 * both / (size_a + size_b) if either else 1.0
    iou = both / either if either else 1.0
    hd95, surface = surfaces(a, b, spacing, tolerance) if annotated.all() else (None, None)
    return Agreement(dice, iou, hd95, surface, size_b, size_a)


def surfaces(a: Mask, b: Mask, spacing: Sequence[float], tolerance: float) -> tuple[float, float]:
    """95 % Hausdorff distance and surface Dice of two masks.

    A surface is the voxels of a mask with one of six neighbours outside of it, as in MONAI; the world outside the volume is
    outside every mask.
    """
    if not (a.any() and b.any()):
        same = a.any() == b.any()
        diagonal = float(np.linalg.norm(np.multiply(a.shape, spacing)))
        return (0.0, 1.0) if same else (diagonal, 0.0)
    [place] = find_objects((a | b).astype(np.uint8))
    edges = [mask[place] & ~binary_erosion(mask[place], generate_binary_structure(a.ndim, 1)) for mask in (a, b)]
    there, back = (distance_transform_edt(~other, sampling=spacing)[own] for own, other in (edges, edges[::-1]))
    within = int((there <= tolerance).sum() + (back <= tolerance).sum())
    hd95 = max(float(np.percentile(there, PERCENTILE)), float(np.percentile(back, PERCENTILE)))
    return hd95, within / (len(there) + len(back))
