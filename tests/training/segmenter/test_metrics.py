from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.segmenter.losses import UNANNOTATED
from training.segmenter.metrics import agreement


def cube(start: int, stop: int, size: int = 20) -> np.ndarray:
    labels = np.zeros((size, size, size), np.int16)
    labels[start:stop, start:stop, start:stop] = 1
    return labels


def test_a_map_agrees_with_itself():
    found = agreement(cube(3, 9), cube(3, 9), 1)
    assert (found.dice, found.iou, found.hd95, found.surface_dice) == (1, 1, 0, 1)
    assert found.wanted == found.found == 6**3


def test_a_cube_inside_another():
    """Of 10³ and 6³, two voxels apart on every side: the inner surface is 2 mm away, corners of the outer one 2·√3."""
    found = agreement(cube(5, 11), cube(3, 13), 1, tolerance=2.0)
    assert found.dice == pytest.approx(2 * 216 / (216 + 1000))
    assert found.iou == pytest.approx(216 / 1000)
    inner, outer = 6**3 - 4**3, 10**3 - 8**3
    facing = 6 * 6**2  # voxels of the outer surface that look straight at the inner one
    assert found.surface_dice == pytest.approx((inner + facing) / (inner + outer))
    assert 2 < found.hd95 <= 2 * 3**0.5


def test_distances_are_in_millimetres_along_each_axis():
    moved = np.roll(cube(3, 9), 2, axis=0)
    assert agreement(moved, cube(3, 9), 1, spacing=(5, 1, 1)).hd95 == pytest.approx(10)
    assert agreement(moved, cube(3, 9), 1, spacing=(1, 1, 1)).hd95 == pytest.approx(2)


@given(st.integers(0, 1000), st.floats(0.5, 3))
def test_it_does_not_matter_which_is_which(seed, scale):
    random = np.random.default_rng(seed)
    first, second = random.integers(0, 2, (2, 6, 7, 8))
    one, other = agreement(first, second, 1, (scale, 1, 1)), agreement(second, first, 1, (scale, 1, 1))
    assert (one.dice, one.iou, one.hd95, one.surface_dice) == (other.dice, other.iou, other.hd95, other.surface_dice)
    assert one.iou == pytest.approx(one.dice / (2 - one.dice))


def test_absent_classes_are_defined():
    nothing = np.zeros((3, 4, 12), np.int16)
    something = nothing.copy()
    something[1, 1, 1] = 1
    both, one, other = (agreement(*maps, 1) for maps in ((nothing, nothing), (something, nothing), (nothing, something)))
    assert (both.dice, both.iou, both.hd95, both.surface_dice) == (1, 1, 0, 1)
    for each in (one, other):
        assert (each.dice, each.iou, each.hd95, each.surface_dice) == (0, 0, 13, 0)


def test_voxels_without_annotation_count_for_nothing():
    wanted = cube(3, 9)
    found = cube(3, 9)
    found[15:] = 1
    wanted[15:] = UNANNOTATED
    sparse = agreement(found, wanted, 1)
    assert (sparse.dice, sparse.iou, sparse.found) == (1, 1, 6**3)
    assert sparse.hd95 is None
    assert sparse.surface_dice is None
