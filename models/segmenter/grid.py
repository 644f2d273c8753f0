"""Where the voxels of a volume lie in the patient, and how to turn an array so that its axes run the usual way.

Arrays are (z, y, x), the fastest axis last. Affines are those of NIfTI: (x, y, z, 1) of a voxel → millimetres to the right, to
the front and upwards (RAS+). Formats that count to the left and to the back (LPS: DICOM, NRRD, MHA) are converted when they are
read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from models.errors import VolumeGeometryError

Kind = TypeVar("Kind", bound=np.generic)
Affine = NDArray[np.float64]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHEAR = 1e-3  # cosine between two axes above which they are not taken for perpendicular (0.06 degrees)
NEAREST, FARTHEST = 1e-9, 1e9  # mm, from one atom's nucleus to a thousand kilometres: beyond are damaged numbers


@dataclass(frozen=True)
class Grid:
    """A volume's grid.

    Attributes:
        shape: voxels (z, y, x), as stored.
        affine: 4 × 4, (x, y, z, 1) → mm in RAS+; None where the file does not say how the volume lies.
        distances: mm between voxels (z, y, x) where there is no affine; None where the file does not say that either.
    """

    shape: Shape
    affine: Affine | None = None
    distances: Spacing | None = None

    def __post_init__(self) -> None:
        if self.affine is not None:
            _check(np.asarray(self.affine, np.float64))
        elif self.distances is not None and not all(NEAREST <= distance <= FARTHEST for distance in self.distances):
            expected = f"three numbers from {NEAREST:g} to {FARTHEST:g} mm"
            raise VolumeGeometryError("not distances", where="spacing", expected=expected, got=self.distances)

    @cached_property
    def spacing(self) -> Spacing | None:
        """mm between voxels (z, y, x); None where it is not known."""
        if self.affine is None:
            return self.distances
        z, y, x = np.linalg.norm(self.affine[:3, :3], axis=0)[::-1].tolist()
        return (z, y, x)

    @cached_property
    def turn(self) -> Turn:
        """What makes the axes run upwards, to the front and to the right; nothing where the file does not say how they run."""
        if self.affine is None:
            return Turn((0, 1, 2), (False, False, False))
        columns = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        axes: dict[int, tuple[int, bool]] = {}
        # The surest pair first, so that no two axes claim one direction however the volume lies.
        for flat in np.argsort(-np.abs(columns), axis=None):
            world, stored = divmod(int(flat), 3)
            if world not in axes and stored not in {axis for axis, _ in axes.values()}:
                axes[world] = (stored, bool(columns[world, stored] < 0))
        order = [axes[world] for world in (2, 1, 0)]  # z, y, x of the result
        z, y, x = ((2 - axis, flipped) for axis, flipped in order)
        return Turn((z[0], y[0], x[0]), (z[1], y[1], x[1]))

    @property
    def millilitres(self) -> float | None:
        """Of one voxel."""
        return None if self.spacing is None else float(np.prod(self.spacing)) / 1000


@dataclass(frozen=True)
class Turn:
    """A permutation of axes, and which of the result's are reversed. Views only; nothing is copied.

    Attributes:
        axes: of the stored array, for z, y, x of the turned one.
        flips: of the turned array.
    """

    axes: Shape
    flips: tuple[bool, bool, bool]

    def there(self, array: NDArray[Kind]) -> NDArray[Kind]:
        """Stored → turned."""
        return array.transpose(self.axes)[self._slices]

    def back(self, array: NDArray[Kind]) -> NDArray[Kind]:
        """Turned → stored."""
        z, y, x = np.argsort(self.axes).tolist()
        return array[self._slices].transpose((z, y, x))

    def spacing(self, stored: Spacing) -> Spacing:
        """Of the turned array."""
        z, y, x = (stored[axis] for axis in self.axes)
        return (z, y, x)

    @property
    def _slices(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)


def grid_of(shape: Shape, where: str, *, affine: Affine | None = None, distances: Spacing | None = None) -> Grid:
    """A grid, of what a file says; see ``Grid``.

    Args:
        where: what messages call the file.

    Raises:
        VolumeGeometryError: it cannot be trusted; the message names the file.
    """
    try:
        return Grid(shape, affine, distances)
    except VolumeGeometryError as error:
        place = f"{where}: {error.where}"
        raise VolumeGeometryError(error.problem, where=place, expected=error.expected, got=error.got, fix=error.fix) from error


def _check(affine: Affine) -> None:
    if affine.shape != (4, 4) or not (np.abs(affine) <= FARTHEST).all():
        expected = f"4 × 4 numbers up to {FARTHEST:g} mm"
        raise VolumeGeometryError("not an affine", where="affine", expected=expected, got=affine.tolist())
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not (lengths >= NEAREST).all():
        fix = "Write the file again with the distances between its voxels."
        got = lengths.tolist()
        raise VolumeGeometryError("an axis has no length", where="affine", expected="distances above 0 mm", got=got, fix=fix)
    columns = affine[:3, :3] / lengths
    cosine = np.abs(columns.T @ columns - np.eye(3)).max()
    if cosine > SHEAR:
        raise VolumeGeometryError(
            "sheared axes, such as those of a tilted gantry",
            where="affine",
            expected=f"perpendicular axes (cosines up to {SHEAR})",
            got=f"a cosine of {cosine:.4f}",
            fix="Resample the volume onto a perpendicular grid first.",
        )
