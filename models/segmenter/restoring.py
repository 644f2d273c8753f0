"""From scores on the grid that the network sees to labels on the scan's own: interpolated class by class, with a running maximum.

No more than one class's scores are ever held on the scan's own grid, and of that only a strip.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.segmenter.plan import Size
from models.segmenter.sampling import Between
from models.segmenter.tiling import Floats, Strip
from models.segmenter.whole import decide, improve

Labels = NDArray[np.integer]


class Restorer:
    """Takes strips in the order in which ``score_volume`` gives them, and fills in a label map.

    Args:
        seen: voxels (z, y, x) that the network sees.
        target: label map (z, y, x), turned as the network sees it; a view of what is written.
    """

    def __init__(self, seen: Size, target: Labels) -> None:
        self.seen, self.target = seen, target
        self.same = tuple(seen) == target.shape
        self.axes = [Between.axis(size, of) for size, of in zip(target.shape, seen, strict=True)]
        self.plane: Floats | None = None  # the last of the slab before
        self.next_plane: Floats | None = None  # of the slab that comes in
        self.row: Floats | None = None  # the last of the strip before

    def add(self, strip: Strip) -> None:
        """Decide all voxels whose neighbours are known by now."""
        _, depth, rows, _ = strip.scores.shape
        if self.same:
            self.target[strip.z : strip.z + depth, strip.y : strip.y + rows] = decide(strip.scores)
            return
        block = self._joined(strip)
        # Voxels are done as soon as the later of their two neighbours is there, along each axis.
        parts = [self._new(0, strip.z, strip.z + depth), self._new(1, strip.y, strip.y + rows), slice(None)]
        first = (strip.z - (strip.z > 0), strip.y - (strip.y > 0), 0)
        best: Floats | None = None
        for label, scores in enumerate(block):
            own = self._interpolated(scores, parts, first)
            if best is None:
                best, labels = own, np.zeros(own.shape, self.target.dtype)
            else:
                improve(best, labels, own, label)
        self.target[parts[0], parts[1]] = labels

    def _joined(self, strip: Strip) -> Floats:
        """The strip with the plane and the row before it."""
        block = strip.scores
        _, _, rows, _ = block.shape
        if strip.y == 0:
            self.plane, self.next_plane = self.next_plane, np.empty((len(block), *self.seen[1:]), np.float32)
        assert self.next_plane is not None
        self.next_plane[:, strip.y : strip.y + rows] = block[:, -1]
        if strip.z > 0:
            assert self.plane is not None
            block = np.concatenate([self.plane[:, None, strip.y : strip.y + rows], block], axis=1)
        last = block[:, :, -1:].copy()
        if strip.y > 0:
            assert self.row is not None
            block = np.concatenate([self.row, block], axis=2)
        self.row = last
        return block

    def _new(self, axis: int, start: int, stop: int) -> slice:
        """Voxels of the scan whose later neighbour is one of these."""
        low, high = np.searchsorted(self.axes[axis].high, [start, stop]).tolist()
        return slice(low, high)

    def _interpolated(self, scores: Floats, parts: list[slice], first: Size) -> Floats:
        for number, (axis, part, start) in enumerate(zip(self.axes, parts, first, strict=True)):
            some = Between(axis.low[part], axis.high[part], axis.share[part])
            scores = some.interpolate(scores, number, start)
        return scores
