"""Which voxels somebody has painted: all of them, those that are not marked as left out, or those of some slices.

Sparse annotation is that of Çiçek et al. 2016, section II: a few slices along up to three axes, everything else without weight.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError, DataFormatError
from training.remote import local
from training.segmenter.losses import UNANNOTATED

AXES = "zyx"
EVERY = "*"
Slices = Mapping[str, list[int]]  # axis → numbers of its slices
Labels = NDArray[np.int16]


@dataclass
class Annotation:
    """What of the label maps counts. All of it, where nothing is said.

    Attributes:
        ignore: label of voxels that nobody has painted.
        slices: JSON file of the painted slices: {case: {axis: [numbers]}}, axes z, y, x as stored (NIfTI's third, second and
            first), numbers from 0; the case "*" speaks for all that are not named. Or its fsspec address.
        keep: so many slices of each of ``axes`` count, evenly spaced among those that hold a class: to see what few slices would
            do.
        axes: see ``keep``.
        stagger: the slices that ``keep`` leaves begin elsewhere in each volume, by its name, and may hold background alone. Of
            many volumes with a slice each all parts are then seen, as where somebody paints a slice here and there; else the
            middle of all of them, and never an end.
    """

    ignore: int | None = None
    slices: str | None = None
    keep: int | None = None
    axes: str = "z"
    stagger: bool = False

    def __post_init__(self) -> None:
        if self.keep is not None and self.keep < 1:
            raise ConfigError("no slices", where="keep", expected="a number from 1", got=self.keep)
        if not self.axes or set(self.axes) - set(AXES):
            raise ConfigError("no such axes", where="axes", expected="some of the letters z, y, x", got=self.axes)

    @cached_property
    def slices_file(self) -> Path | None:
        """The JSON file on this disk, if there is one."""
        return local(self.slices) if self.slices else None

    def apply(self, stored: NDArray[np.generic], name: str, classes: int) -> Labels:
        """Label map (z, y, x) as stored → int16 with ``UNANNOTATED`` where nothing counts.

        Raises:
            DataFormatError: labels that are no class; names them.
        """
        labels = whole_labels(stored, name)
        if self.ignore is not None:
            labels[labels == self.ignore] = UNANNOTATED
        if wrong := sorted({int(label) for label in np.unique(labels)} - {UNANNOTATED, *range(classes)}):
            fix = "Name them in the plan's classes, or leave them out with `ignore`."
            raise DataFormatError("labels without a class", where=name, expected=f"0 to {classes - 1}", got=wrong[:9], fix=fix)
        if self.slices_file is not None:
            labels[~painted(labels.shape, read_slices(self.slices_file, name), name)] = UNANNOTATED
        if self.keep is not None:
            kept = staggered(labels.shape, self.keep, self.axes, name) if self.stagger else evenly(labels, self.keep, self.axes)
            labels[~painted(labels.shape, kept, name)] = UNANNOTATED
        return labels


def whole_labels(stored: NDArray[np.generic], name: str) -> Labels:
    """Labels as int16; some programs write them as floats."""
    values = np.asarray(stored)
    labels = values.astype(np.int16)
    if (labels != values).any():
        raise DataFormatError(
            "labels that are no whole numbers", where=name, expected="0, 1, 2 …", got=values[labels != values][0]
        )
    return labels


def painted(shape: tuple[int, ...], slices: Slices, name: str) -> NDArray[np.bool_]:
    """Voxels of the slices.

    Raises:
        DataFormatError: no such axis or slice.
    """
    mask = np.zeros(shape, bool)
    for axis, numbers in slices.items():
        if axis not in AXES or axis == "":
            raise DataFormatError("no such axis", where=name, expected="z, y or x", got=axis)
        size = shape[AXES.index(axis)]
        for number in numbers:
            if not (isinstance(number, int) and 0 <= number < size):
                raise DataFormatError("no such slice", where=f"{name}: {axis}", expected=f"0 to {size - 1}", got=number)
            mask[(slice(None),) * AXES.index(axis) + (number,)] = True
    return mask


def read_slices(path: Path, name: str) -> Slices:
    """Those of a case in a JSON file.

    Raises:
        DataFormatError: the file is no such list, or does not name the case.
    """
    try:
        listed = json.loads(path.read_text("utf-8"))
        slices: Slices = listed[name] if name in listed else listed[EVERY]
        return {str(axis): list(numbers) for axis, numbers in slices.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        expected = f'{{"{name}" or "*": {{"z": [12, 30], "y": [], "x": [40]}}}}'
        raise DataFormatError("no list of slices", where=f"{path}: {name}", expected=expected, got=repr(error)) from error


def evenly(labels: Labels, count: int, axes: str) -> dict[str, list[int]]:
    """Numbers of ``count`` slices along each axis, in the middles of equal parts of the extent of what is not background."""
    inside = labels > 0 if (labels > 0).any() else labels >= 0
    slices = {}
    for axis in axes:
        number = AXES.index(axis)
        held = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != number)))
        first, last = (int(held[0]), int(held[-1]) + 1) if len(held) else (0, labels.shape[number])
        places = first + (np.arange(count) + 0.5) * (last - first) / count
        slices[axis] = sorted({int(place) for place in places})
    return slices


def staggered(shape: tuple[int, ...], count: int, axes: str, name: str) -> dict[str, list[int]]:
    """Numbers of ``count`` slices along each axis, as far apart as ``count`` allows, from a start that ``name`` draws."""
    slices = {}
    for axis in axes:
        size = shape[AXES.index(axis)]
        start = int.from_bytes(hashlib.sha256(f"{name} {axis}".encode()).digest()[:4]) / 2**32
        slices[axis] = sorted({int((place + start) * size / count) for place in range(count)})
    return slices
