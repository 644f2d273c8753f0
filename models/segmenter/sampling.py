"""A volume as its network sees it: turned, resampled to the plan's spacing, normalised; read window by window, never whole."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from models.errors import VolumeGeometryError, VolumeValuesError
from models.segmenter.grid import Grid, Spacing, Turn
from models.segmenter.plan import Normalisation, Plan, Size
from models.segmenter.volume import Volume, Voxels

Floats = NDArray[np.float32]
SAME_SPACING = 0.01  # relative difference below which a volume is not resampled
SLAB = 2**22  # voxels that are looked at together


@dataclass(frozen=True)
class Between:
    """Where the voxels of one axis lie between those of another: linear interpolation.

    Attributes:
        low: voxel before or at each.
        high: voxel after it; the same at the last.
        share: of ``high``.
    """

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    share: Floats

    @classmethod
    def axis(cls, size: int, of: int, start: int = 0, stop: int | None = None) -> Between:
        """The voxels start … stop of an axis of ``size``, between those of an axis of ``of`` voxels over the same length.

        Ends of both axes coincide, not the middles of their end voxels; beyond the last middle its value goes on.
        """
        places = (np.arange(start, size if stop is None else stop) + 0.5) * (of / size) - 0.5
        places = places.clip(0, of - 1)
        low = np.floor(places).astype(np.intp)
        return cls(low, np.minimum(low + 1, of - 1), (places - low).astype(np.float32))

    def span(self) -> slice:
        """Voxels of the other axis that are needed."""
        return slice(int(self.low[0]), int(self.high[-1]) + 1)

    def interpolate(self, block: Floats, axis: int, first: int = 0) -> Floats:
        """Along one axis of a block that begins with voxel ``first`` there."""
        if not self.share.any():
            return block.take(self.low - first, axis)
        share = self.share.reshape([-1 if number == axis else 1 for number in range(block.ndim)])
        before, after = block.take(self.low - first, axis), block.take(self.high - first, axis)
        return before + share * (after - before)


@dataclass(frozen=True)
class Sight:
    """What the network sees of a volume.

    Attributes:
        turned: voxels (z, y, x), a view of those stored.
        turn: from stored to turned.
        shape: of what the network sees: that of ``turned``, or another where it is resampled.
        scale: value seen = stored · scale + shift, after the cut.
        shift: see ``scale``.
        cut: lowest and highest stored value, where the plan says so.
    """

    turned: Voxels
    turn: Turn
    shape: Size
    scale: float
    shift: float
    cut: tuple[float, float] | None = None

    @property
    def resampled(self) -> bool:
        return self.shape != self.turned.shape

    def window(self, place: Size, size: Size) -> Floats:
        """Values (z, y, x) from a place on; zeros, which are the mean, where the volume has ended (or not begun)."""
        inside = [slice(max(0, p), min(p + s, whole)) for p, s, whole in zip(place, size, self.shape, strict=True)]
        block = self.block((inside[0], inside[1], inside[2]))
        if block.shape == size:
            return block
        values = np.zeros(size, np.float32)
        values[tuple(slice(i.start - p, i.stop - p) for i, p in zip(inside, place, strict=True))] = block
        return values

    def block(self, part: tuple[slice, slice, slice]) -> Floats:
        """Values of a part that lies inside."""
        if not self.resampled:
            return self._seen(self.turned[part])
        axes = [
            Between.axis(size, of, each.start, each.stop)
            for size, of, each in zip(self.shape, self.turned.shape, part, strict=True)
        ]
        block = self._seen(self.turned[tuple(axis.span() for axis in axes)])
        return reduce(lambda done, pair: pair[1].interpolate(done, pair[0], pair[1].span().start), enumerate(axes), block)

    def _seen(self, stored: Voxels) -> Floats:
        values = stored.astype(np.float32)
        if self.cut:
            values.clip(*self.cut, out=values)
        values *= np.float32(self.scale)
        values += np.float32(self.shift)
        return values


def see(volume: Volume, plan: Plan) -> Sight:
    """Prepare a volume for windows to be read; reads all of it once, slab by slab.

    Raises:
        VolumeGeometryError: the plan needs a spacing that the volume does not have.
        VolumeValuesError: voxels that are NaN or infinite.
    """
    turn = volume.grid.turn if plan.oriented else Grid(volume.grid.shape).turn
    turned = turn.there(volume.stored)
    shape = seen_shape(volume, turn, plan.spacing)
    return Sight(turned, turn, shape, *_scaling(volume, plan.normalisation))


def seen_shape(volume: Volume, turn: Turn, spacing: Spacing | None) -> Size:
    """Voxels (z, y, x) that the network sees of a volume."""
    shape = tuple(volume.grid.shape[axis] for axis in turn.axes)
    if spacing is None:
        return shape[0], shape[1], shape[2]
    if volume.grid.spacing is None:
        raise VolumeGeometryError(
            "the file does not say how far its voxels are apart, and this network needs to know",
            where=volume.name,
            expected="the spacing in the file's header",
            fix="Give it: --spacing Z,Y,X in millimetres, or the field `spacing` of a request.",
        )
    factors = [own / wanted for own, wanted in zip(turn.spacing(volume.grid.spacing), spacing, strict=True)]
    z, y, x = (
        size if abs(factor - 1) < SAME_SPACING else max(1, round(size * factor))
        for size, factor in zip(shape, factors, strict=True)
    )
    return z, y, x


def _scaling(volume: Volume, how: Normalisation) -> tuple[float, float, tuple[float, float] | None]:
    """Scale, shift and cut of stored values."""
    mean, deviation = moments(volume)
    slope, intercept = volume.slope, volume.intercept
    if how.kind == "volume":
        return (1 / deviation, -mean / deviation, None) if deviation > 0 else (0.0, 0.0, None)
    lowest, highest, mean, deviation = how.figures
    low, high = sorted(((lowest - intercept) / slope, (highest - intercept) / slope))
    return slope / deviation, (intercept - mean) / deviation, (low, high)


def moments(volume: Volume) -> tuple[float, float]:
    """Mean and standard deviation of the stored values, in double precision.

    Raises:
        VolumeValuesError: voxels that are NaN or infinite.
    """
    count, mean, squares = 0, 0.0, 0.0  # Chan et al. 1983: parts are joined without cancellation
    planes = max(1, SLAB // max(1, volume.stored[0].size))
    for first in range(0, len(volume.stored), planes):
        part = np.asarray(volume.stored[first : first + planes]).astype(np.float64)
        if not np.isfinite(part).all():
            plane = first + int(np.argmin(np.isfinite(part).all(axis=(1, 2))))
            raise VolumeValuesError(
                "voxels that are no numbers",
                where=f"{volume.name}: plane {plane}",
                expected="finite values",
                got="NaN or infinity",
                fix="Replace them, for example by the value of the air around.",
            )
        own, others = part.mean(), part.size
        squares += float(((part - own) ** 2).sum()) + (own - mean) ** 2 * count * others / (count + others)
        mean += (own - mean) * others / (count + others)
        count += others
    return mean, float(np.sqrt(squares / max(1, count)))
