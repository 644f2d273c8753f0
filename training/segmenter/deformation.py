"""Patches turned, scaled and bent in one resampling.

The deformation is that of Çiçek et al. 2016: displacements at the points of a coarse grid, between them cubic B-splines; the grid
lies as that of ITK's ``BSplineTransform`` (https://itk.org), which gives the same places in ten times the time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

ORDER = 3  # of the splines
FIXED = 2  # outer control points on each side that stay where they are, so that the borders do


@dataclass(frozen=True)
class Deformation:
    """Where the voxels of a patch come from.

    Attributes:
        matrix: (3, 3), of the place of a voxel about the patch's middle, in voxels (z, y, x); None leaves it where it is.
        displacements: (n, n, n, 3) of the control points, in voxels (z, y, x), before ``matrix``; None for none.
    """

    matrix: Tensor | None = None
    displacements: Tensor | None = None

    def __call__(self, image: Tensor, labels: Tensor, filling: int) -> tuple[Tensor, Tensor]:
        """Resample a patch (z, y, x), linearly, and its labels, from the nearest voxel.

        What comes from outside of the patch is 0 in the image and ``filling``, less than any label, in the labels.
        """
        size = torch.tensor(image.shape, dtype=torch.float32)
        # As shares of the patch, -1 to 1 from border to border; x first.
        grid = self.places(image.shape).mul_(2 / size).add_(1 / size - 1).flip(-1)[None]
        image = grid_sample(image[None, None].float(), grid, align_corners=False)[0, 0]
        changed = grid_sample((labels - filling)[None, None].float(), grid, mode="nearest", align_corners=False)[0, 0]
        return image, changed.to(labels.dtype) + filling

    def places(self, shape: Sequence[int]) -> Tensor:
        """Where each voxel of a patch comes from, in voxels: (z, y, x, 3)."""
        ramps = [torch.arange(size, dtype=torch.float32) - (size - 1) / 2 for size in shape]
        places = torch.stack(torch.meshgrid(*ramps, indexing="ij"), dim=-1)
        if self.displacements is not None:
            moved = self.displacements
            for size in shape:  # an axis is taken from the front and comes back behind the others: after three, all are in order
                moved = torch.tensordot(moved, splines(size, moved.shape[0]), dims=([0], [1])).movedim(-1, 2)
            places += moved
        if self.matrix is not None:
            places = places @ self.matrix.T
        return places.add_(torch.tensor([(size - 1) / 2 for size in shape]))


def splines(size: int, points: int) -> Tensor:
    """Weights of the control points along an axis: (size, points). Their cells divide the axis from border to border."""
    cells = points - ORDER
    place = (torch.arange(size, dtype=torch.float64) + 0.5) / size * cells
    distance = (place[:, None] - torch.arange(-1, points - 1)).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far).float()


def drawn_matrix(degrees: float, scale: float, generator: torch.Generator, thin: Collection[int] = ()) -> Tensor:
    """A rotation by up to ``degrees`` about each axis and a change of size by up to a share of ``scale`` along each.

    No rotation moves voxels along the axes ``thin``.
    """
    numbers = (2 * torch.rand(6, generator=generator) - 1).tolist()
    matrix = torch.eye(3)
    for axis, number in enumerate(numbers[:3]):
        first, second = (other for other in range(3) if other != axis)
        if first in thin or second in thin:
            continue
        angle = math.radians(number * degrees)
        turn = torch.eye(3)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    return matrix / torch.tensor([1 + number * scale for number in numbers[3:]])


def drawn_displacements(
    points: int, most: float, shape: Sequence[int], generator: torch.Generator, thin: Collection[int] = ()
) -> Tensor:
    """Displacements of (points, points, points) control points by up to ``most`` voxels along each axis that is not ``thin``.

    A cubic B-spline does not fold where a control point moves less than half a cell.
    """
    limits = torch.tensor([0.0 if axis in thin else min(most, 0.45 * size / (points - ORDER)) for axis, size in enumerate(shape)])
    displacements = (2 * torch.rand(points, points, points, 3, generator=generator) - 1) * limits
    inner = torch.zeros(points)
    inner[FIXED : points - FIXED] = 1
    return displacements * torch.einsum("i,j,k->ijk", inner, inner, inner)[..., None]
