"""A volume of any size through a network that wants windows of one: strip by strip, in memory that its depth does not change.

Neighbouring windows overlap, and each voxel's scores are the mean of its windows', weighted so that the middle of a window counts
most: by MONAI's Gaussian map (``compute_importance_map``), whose weights do not go below 0.001 of the largest. A voxel's sum is
divided by its own weights, borders included, so a constant stays constant.

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
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError

Floats = NDArray[np.float32]
Place = tuple[int, int, int]  # z, y, x of a window's first voxel

WIDTH = 0.125  # standard deviation of the Gaussian, in windows
FLOOR = 1e-3  # least weight; the largest is 1


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

    @property
    def step(self) -> int:
        """Voxels from one window to the next."""
        return max(1, int(self.window * (1 - self.overlap)))

    @property
    def count(self) -> int:
        """How many windows there are."""
        return -(-(self.size - self.window) // self.step) + 1

    @cached_property
    def starts(self) -> list[int]:
        """First voxel of each window."""
        last = self.size - self.window
        return [*range(0, last, self.step), last]

    @property
    def bell(self) -> NDArray[np.float64]:
        """The Gaussian along a window."""
        middle = (self.window - 1) / 2
        bell: NDArray[np.float64] = np.exp(-0.5 * ((np.arange(self.window) - middle) / (WIDTH * self.window)) ** 2)
        return bell

    def touching(self, first: int, after: int) -> list[int]:
        """Starts of the windows with a voxel from ``first`` to before ``after``."""
        return [start for start in self.starts if start < after and start + self.window > first]

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
    weights = window_weights(axes)
    slabs = _slabs(z_axis, y_axis)
    behind = [slab.depth - slab.final for slab in slabs]
    before = np.zeros((classes, max(behind), y_axis.size, x_axis.size), np.float32)  # planes that the next slab adds to
    deepest = np.empty((classes, max(slab.depth for slab in slabs), y_axis.window, x_axis.size), np.float32)
    places = ((z, y, x) for slab in slabs for y in y_axis.starts for z in slab.starts for x in x_axis.starts)
    with closing(_in_order(lambda place: network(read(place)), places, workers)) as windows:
        for slab, waiting, left in zip(slabs, [0, *behind[:-1]], behind, strict=True):
            row = deepest[:, : slab.depth]
            kept = 0  # rows that the windows before began
            for y, y_final in zip(y_axis.starts, y_axis.finals, strict=True):
                row[:, :, :kept] = row[:, :, y_axis.window - kept :]
                row[:, :, kept:] = 0
                for z in slab.starts:
                    _add(row[:, z - slab.starts[0] :][:, : z_axis.window], windows, weights, x_axis)
                done, kept = row[:, :, :y_final], y_axis.window - y_final
                done[:, :waiting] += before[:, :waiting, y : y + y_final]
                before[:, :left, y : y + y_final] = done[:, slab.final :]
                final = done[:, : slab.final]
                _divide(final, (slab.starts[0], y), axes, weights)
                yield Strip(slab.starts[0], y, final)


def window_weights(axes: Sequence[Axis]) -> Floats:
    """How much each voxel of a window counts, (z, y, x)."""
    z, y, x = (axis.bell for axis in axes)
    return np.maximum(z[:, None, None] * y[:, None] * x, FLOOR).astype(np.float32)


def _divide(scores: Floats, first: tuple[int, int], axes: Sequence[Axis], weights: Floats) -> None:
    """Divide sums (classes, z, y, x) that begin at ``first`` (z, y) by the weights that went into them, plane by plane."""
    z_axis, y_axis, x_axis = axes
    (z_first, y_first), (depth, height, width) = first, scores.shape[1:]
    rows = y_axis.touching(y_first, y_first + height)
    total = np.empty((height, width), np.float32)
    for plane in range(depth):
        total[:] = 0
        for z in z_axis.touching(z_first + plane, z_first + plane + 1):
            for y in rows:
                top, bottom = max(y, y_first), min(y + y_axis.window, y_first + height)
                part = weights[z_first + plane - z, top - y : bottom - y]
                for x in x_axis.starts:
                    total[top - y_first : bottom - y_first, x : x + x_axis.window] += part
        scores[:, plane] /= total


class _Slab(NamedTuple):
    """Windows that go through the volume together: where they begin along z, the planes that they cover, and how many of those no
    later slab touches.
    """

    starts: list[int]
    depth: int
    final: int


def _slabs(z_axis: Axis, y_axis: Axis) -> list[_Slab]:
    """The last window ends with the volume and may begin just after the one before. Then it is cheaper to hold a deeper row for
    both than nearly all planes between them.
    """
    groups = [[number] for number in range(len(z_axis.starts))]
    if len(groups) > 2:
        step, gap = z_axis.finals[0], z_axis.finals[-2]
        if (step - gap) * y_axis.size > gap * y_axis.window:
            groups[-2:] = [groups[-2] + groups[-1]]
    slabs = []
    for group, after in zip(groups, [*groups[1:], None], strict=True):
        starts = [z_axis.starts[number] for number in group]
        depth = starts[-1] + z_axis.window - starts[0]
        final = z_axis.starts[after[0]] - starts[0] if after else depth
        slabs.append(_Slab(starts, depth, final))
    return slabs


def _add(planes: Floats, windows: Iterator[Floats], weights: Floats, x_axis: Axis) -> None:
    """Add a row of weighted windows to its sums (classes, z, y, x)."""
    weighted = np.empty_like(weights)
    for x in x_axis.starts:
        for total, scores in zip(planes, next(windows), strict=True):  # by class: memory for one product is enough
            total[..., x : x + x_axis.window] += np.multiply(scores, weights, out=weighted)


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
