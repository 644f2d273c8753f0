"""A volume of any size through a network that wants windows of one: strip by strip, in memory that its depth does not change.

Neighbouring windows overlap, and each voxel's scores are the mean of its windows', weighted so that the middle of a window counts
most. Weights are made along each axis and divided by their sum there, so those of a voxel sum to one everywhere, borders
included; the product of three such weights is nnU-Net's and MONAI's Gaussian map after their division.

Windows go through a slab along x, then y, then z. A strip whose windows are all done leaves at once, so what is held is one row
of windows, and of the slab before only the planes that the next one overlaps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError

Floats = NDArray[np.float32]
Place = tuple[int, int, int]  # z, y, x of a window's first voxel

WIDTH = 0.125  # standard deviation of the Gaussian, in windows


@dataclass(frozen=True)
class Axis:
    """How windows lie along one axis.

    Attributes:
        size: voxels of the volume.
        window: voxels of a window, at most ``size``.
        overlap: share of a window that the next one begins before its end; the last one ends with the volume.
    """

    size: int
    window: int
    overlap: float

    def __post_init__(self) -> None:
        if not 1 <= self.window <= self.size:
            raise ConfigError("not a window", where="window", expected=f"1 to {self.size} voxels", got=self.window)
        if not 0 <= self.overlap < 1:
            raise ConfigError("not an overlap", where="overlap", expected="a share from 0, below 1", got=self.overlap)

    @cached_property
    def starts(self) -> list[int]:
        """First voxel of each window."""
        step = max(1, int(self.window * (1 - self.overlap)))
        last = self.size - self.window
        return [*range(0, last, step), last]

    @cached_property
    def weights(self) -> list[Floats]:
        """Of each window's voxels; those that fall on one voxel sum to one."""
        middle = (self.window - 1) / 2
        bell = np.exp(-0.5 * ((np.arange(self.window) - middle) / (WIDTH * self.window)) ** 2)
        total = np.zeros(self.size)
        for start in self.starts:
            total[start : start + self.window] += bell
        return [(bell / total[start : start + self.window]).astype(np.float32) for start in self.starts]

    @property
    def finals(self) -> list[int]:
        """Voxels of each window that no later window touches."""
        return [after - start for start, after in pairwise([*self.starts, self.size])]


class Strip(NamedTuple):
    """Final scores (classes, z, y, x): their first z and y in the volume, all of its x.

    The next strip takes their memory: use them, or copy them, before it is asked for.
    """

    z: int
    y: int
    scores: Floats


def score_strips(
    read: Callable[[Place], Floats],
    network: Callable[[Floats], Floats],
    axes: Sequence[Axis],
    classes: int,
    workers: int = 1,
) -> Iterator[Strip]:
    """The scores of a volume, strip by strip; every voxel once.

    Args:
        read: a window (channels, z, y, x) by the place of its first voxel.
        network: scores (classes, z, y, x) of a window. With several workers both must be safe to call from as many threads.
        axes: of z, y and x.
        classes: of the scores.
        workers: windows at the same time.
    """
    z_axis, y_axis, x_axis = axes
    carried = z_axis.window - min(z_axis.finals[:-1], default=z_axis.window)
    before = np.zeros((classes, carried, y_axis.size, x_axis.size), np.float32)  # planes that the next slab adds to
    waiting = 0  # planes of it in use
    row = np.empty((classes, z_axis.window, y_axis.window, x_axis.size), np.float32)
    weighted = np.empty((classes, *(axis.window for axis in axes)), np.float32)
    places = product(z_axis.starts, y_axis.starts, x_axis.starts)
    with closing(_in_order(lambda place: network(read(place)), places, workers)) as windows:
        for z, z_weights, z_final in zip(z_axis.starts, z_axis.weights, z_axis.finals, strict=True):
            behind = z_axis.window - z_final
            kept = 0  # rows that the window before began
            for y, y_weights, y_final in zip(y_axis.starts, y_axis.weights, y_axis.finals, strict=True):
                row[:, :, :kept] = row[:, :, y_axis.window - kept :]
                row[:, :, kept:] = 0
                for x, x_weights in zip(x_axis.starts, x_axis.weights, strict=True):
                    weights = z_weights[:, None, None] * (y_weights[:, None] * x_weights)
                    row[..., x : x + x_axis.window] += np.multiply(next(windows), weights, out=weighted)
                done, kept = row[:, :, :y_final], y_axis.window - y_final
                done[:, :waiting] += before[:, :waiting, y : y + y_final]
                before[:, :behind, y : y + y_final] = done[:, z_final:]
                yield Strip(z, y, done[:, :z_final])
            waiting = behind


def _in_order(network: Callable[[Place], Floats], places: Iterable[Place], workers: int) -> Generator[Floats, None, None]:
    """The windows' scores in the order of their places. A window more than there are workers is on its way, whatever row it
    belongs to, so that no worker waits for a row to end, or for its strip to be used.
    """
    with ThreadPoolExecutor(workers) as pool:
        coming: deque[Future[Floats]] = deque()
        try:
            for place in places:
                coming.append(pool.submit(network, place))
                if len(coming) > workers:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()
