"""A picture of a segmented volume: three planes through what was found, the labels in colour over the grey values."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.segmenter.volume import Volume

Image = NDArray[np.uint8]
Planes = tuple[int, int, int]

# Okabe and Ito 2008: colours that people tell apart whatever their eyes.
COLOURS = np.array(
    [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]], np.float32
)
OPACITY = 0.45
HEIGHT = 320  # pixels of the picture
GAP = 8
CONTRAST = (1.0, 99.0)  # percentiles that become black and white


def draw(volume: Volume, labels: NDArray[np.integer], planes: Planes | None = None) -> bytes:
    """A PNG of three planes side by side, up and front at the top: seen from above, from the front, from the left.

    Axes are turned as people look at them, and voxels have their true proportions where the file says how they lie.

    Args:
        volume: its values.
        labels: (z, y, x), as stored.
        planes: numbers (z, y, x) of the planes, turned; by default those with most of what is not background.
    """
    from PIL import Image as Picture

    turn = volume.grid.turn
    values, turned = turn.there(volume.stored), turn.there(labels)
    spacing = turn.spacing(volume.grid.spacing or (1.0, 1.0, 1.0))
    planes = planes or fullest(turned)
    pictures = []
    for axis, number in enumerate(planes):
        colours = _coloured(np.take(values, number, axis), np.take(turned, number, axis))[::-1]
        height, width = (spacing[other] * turned.shape[other] for other in range(3) if other != axis)
        size = (max(1, min(4 * HEIGHT, round(HEIGHT * width / height))), HEIGHT)
        pictures.append(Picture.fromarray(colours).resize(size, Picture.Resampling.NEAREST))
    whole = Picture.new("RGB", (sum(each.width + GAP for each in pictures) - GAP, HEIGHT), (16, 16, 16))
    left = 0
    for each in pictures:
        whole.paste(each, (left, 0))
        left += each.width + GAP
    whole.save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def fullest(labels: NDArray[np.integer]) -> Planes:
    """For each axis the plane with most voxels that are not background; the middle where there are none."""
    counts: list[NDArray[np.int64]] = [np.zeros(size, np.int64) for size in labels.shape]
    for number, plane in enumerate(labels):
        inside = np.asarray(plane) > 0
        counts[0][number] = inside.sum()
        counts[1] += inside.sum(1)
        counts[2] += inside.sum(0)
    z, y, x = (int(each.argmax()) if each.any() else len(each) // 2 for each in counts)
    return z, y, x


def _coloured(values: NDArray[np.generic], labels: NDArray[np.integer]) -> Image:
    """(rows, columns) → RGB."""
    grey = values.astype(np.float32)
    low, high = np.percentile(grey, CONTRAST)
    grey = 255 * ((grey - low) / max(float(high - low), 1e-9)).clip(0, 1)
    picture = np.repeat(grey[..., None], 3, axis=2)
    inside = labels > 0
    picture[inside] += OPACITY * (COLOURS[(labels[inside].astype(np.int64) - 1) % len(COLOURS)] - picture[inside])
    return picture.astype(np.uint8)


def colours(count: int) -> Sequence[str]:
    """#rrggbb of the classes from 1 on."""
    return ["#" + "".join(f"{int(part):02x}" for part in COLOURS[number % len(COLOURS)]) for number in range(count)]
