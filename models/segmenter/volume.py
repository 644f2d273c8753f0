"""A volume as it was found: its voxels, its grid, and what could not be known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import VolumeError, VolumeShapeError, VolumeTooLargeError
from models.segmenter.grid import Grid

Kind = Literal["nifti", "nrrd", "mha", "tiff", "dicom", "zarr"]
Voxels = NDArray[Any]


@dataclass(frozen=True)
class Limits:
    """What is accepted of a volume.

    Attributes:
        voxels: at most.
        bytes: of its voxels, unpacked, at most.
        held: bytes of scores that working on it may hold at once; see ``models.segmenter.whole.check_work``.
    """

    voxels: int = 2**31
    bytes: int = 2**33
    held: int = 2**32


@dataclass
class Volume:
    """A volume that has been opened.

    Attributes:
        name: what messages call it.
        kind: of its file.
        grid: where its voxels lie.
        stored: (z, y, x), of the file's own type; mapped from disk, not held.
        slope: value = stored · slope + intercept.
        intercept: see ``slope``.
        notes: what the file leaves open and how that was taken, for people.
        source: what a writer of the same kind needs of it (a header, a list of DICOM files).
    """

    name: str
    kind: Kind
    grid: Grid
    stored: Voxels
    slope: float = 1.0
    intercept: float = 0.0
    notes: list[str] = field(default_factory=list)
    source: Any = None


def check_kind(dtype: np.dtype[Any], where: str) -> np.dtype[Any]:
    """Refuse voxels that are not plain numbers of up to eight bytes with a VolumeError."""
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        expected = "whole numbers or floats of at most 64 bits"
        raise VolumeError("voxels of a kind that is not read", where=where, expected=expected, got=dtype)
    return dtype


def check_shape(shape: tuple[int, ...], itemsize: int, limits: Limits, where: str) -> tuple[int, int, int]:
    """Refuse what is not a volume or is too large, from its header.

    Args:
        shape: slowest axis first; axes of length one before the last three are dropped.
        itemsize: bytes of a voxel.

    Raises:
        VolumeShapeError: not three axes, or an axis without voxels.
        VolumeTooLargeError: over a limit.
    """
    whole = tuple(int(size) for size in shape)
    while len(whole) > 3 and whole[0] == 1:
        whole = whole[1:]
    if len(whole) != 3 or min(whole) < 1:
        fix = "Send one volume; of a series over time or of several channels, each alone."
        raise VolumeShapeError("not a volume", where=where, expected="three axes (z, y, x)", got=shape, fix=fix)
    voxels = int(np.prod([float(size) for size in whole]))
    if voxels > limits.voxels:
        expected = f"at most {limits.voxels:,} voxels"
        raise VolumeTooLargeError("too many voxels", where=where, expected=expected, got=f"{voxels:,} voxels {whole}")
    if voxels * itemsize > limits.bytes:
        expected = f"at most {limits.bytes:,} bytes of voxels"
        raise VolumeTooLargeError("too large", where=where, expected=expected, got=f"{voxels * itemsize:,} bytes")
    z, y, x = whole
    return z, y, x
