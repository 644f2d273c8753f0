"""The scores of a whole volume, from windows that may be larger than it, of networks that may score only their middle."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.errors import VolumeTooLargeError
from models.segmenter.plan import Size
from models.segmenter.tiling import Axis, Floats, Place, Strip, score_strips
from models.segmenter.volume import Limits

MOST_WINDOWS = 2**20  # of a volume; one of 2048³ voxels has 24 thousand of 96³
MOST_OFTEN = 16  # times that the network sees each voxel of the largest volume; 8 where windows overlap by half


class Reads(Protocol):
    """Values (z, y, x) of a volume from a place on, which may lie outside: zeros there."""

    def __call__(self, place: Size, size: Size, /) -> Floats:
        """Read."""


@dataclass(frozen=True)
class Layout:
    """How windows cover a volume.

    Attributes:
        shape: voxels (z, y, x) of the volume.
        window: that the network takes.
        margin: voxels on each side of a window that the network does not score.
        overlap: share of what is scored that the next window repeats.
    """

    shape: Size
    window: Size
    margin: Size
    overlap: float

    @cached_property
    def axes(self) -> list[Axis]:
        scored = [size - 2 * lost for size, lost in zip(self.window, self.margin, strict=True)]
        return [Axis(max(whole, inner), inner, self.overlap) for whole, inner in zip(self.shape, scored, strict=True)]

    @property
    def before(self) -> list[int]:
        """Voxels before the volume, where it is smaller than what a window scores: it lies in the middle."""
        return [(axis.size - own) // 2 for axis, own in zip(self.axes, self.shape, strict=True)]

    @property
    def windows(self) -> int:
        """How many there are."""
        return math.prod(axis.count for axis in self.axes)

    def place(self, scored: Place) -> Size:
        """Where in the volume the window begins whose scores begin there."""
        z, y, x = (at - lost - outside for at, lost, outside in zip(scored, self.margin, self.before, strict=True))
        return z, y, x


def check_work(layout: Layout, classes: int, limits: Limits, name: str) -> None:
    """Refuse a volume of few voxels that would be much work all the same: one whose header says that they are a kilometre
    apart, and which therefore is resampled to billions, or one that is long and thin, where windows are wider than it.

    Args:
        layout: of its windows.
        classes: of the scores.
        limits: what may be held of the scores; how many voxels are accepted bounds the work, too.
        name: what messages call the volume.

    Raises:
        VolumeTooLargeError: it is.
    """
    z, y, x = layout.axes
    held = 4 * classes * x.size * z.window * (2 * y.window + math.ceil(z.overlap * y.size))  # see ``score_strips``
    most = min(MOST_WINDOWS, max(1, MOST_OFTEN * limits.voxels // math.prod(layout.window)))
    if layout.windows > most or held > limits.held:
        raise VolumeTooLargeError(
            "too large for the network's windows",
            where=name,
            expected=f"at most {most} windows and {limits.held} bytes of scores at once",
            got=f"{layout.windows} windows, {held} bytes: {' × '.join(map(str, layout.shape))} voxels as the network sees them",
            fix="Check the spacing in its header; else cut it into parts.",
        )


def score_volume(
    read: Reads, network: Callable[[Floats], Floats], layout: Layout, classes: int, workers: int = 1
) -> Iterator[Strip]:
    """Strips of final scores, as ``score_strips`` gives them, in the volume's own places.

    Args:
        read: a window (z, y, x) of the volume.
        network: scores (classes, z, y, x) of a window (1, z, y, x), its middle only if the layout has a margin.
        layout: of the windows.
        classes: of the scores.
        workers: windows at the same time.
    """
    strips = score_strips(lambda at: read(layout.place(at), layout.window)[None], network, layout.axes, classes, workers)
    for strip in strips:
        inside = [_inside(at, size, out, own) for at, size, out, own in _places(strip, layout)]
        if all(part.start < part.stop for part in inside):
            first = [max(0, at - out) for at, _, out, _ in _places(strip, layout)]
            yield Strip(first[0], first[1], strip.scores[:, inside[0], inside[1], inside[2]])


def decide(scores: Floats) -> NDArray[np.uint16]:
    """(classes, z, y, x) → the class of the highest score; of equals the first."""
    best, labels = scores[0].copy(), np.zeros(scores.shape[1:], np.uint16)
    for label in range(1, len(scores)):
        improve(best, labels, scores[label], label)
    return labels


def improve(best: Floats, labels: NDArray[np.integer], scores: Floats, label: int) -> None:
    """Where a class scores higher than the best so far, it is the best."""
    np.copyto(labels, label, where=scores > best)
    np.maximum(best, scores, out=best)


def _places(strip: Strip, layout: Layout) -> Sequence[tuple[int, int, int, int]]:
    """For each axis: first voxel of the strip, its size, voxels before the volume, size of the volume."""
    starts = (strip.z, strip.y, 0)
    return list(zip(starts, strip.scores.shape[1:], layout.before, layout.shape, strict=True))


def _inside(at: int, size: int, before: int, own: int) -> slice:
    """The part of a strip that lies in the volume."""
    return slice(max(0, before - at), max(0, min(size, before + own - at)))
