"""Grids and turns, held to nibabel's canonical orientation."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import VolumeGeometryError
from models.segmenter.grid import FARTHEST, Grid, Turn, grid_of

SHAPE = (3, 4, 5)


@st.composite
def rotations(draw):
    """Rotations from quaternions, so that every direction is met."""
    numbers = st.floats(-1, 1).map(lambda value: round(value, 3))
    w, x, y, z = draw(st.tuples(numbers, numbers, numbers, numbers).filter(lambda q: np.linalg.norm(q) > 0.1))
    return nibabel.quaternions.quat2mat((w, x, y, z))


@st.composite
def affines(draw):
    """Permutations, mirror images, small or any rotations, and distances."""
    order = draw(st.permutations([0, 1, 2]))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    steps = draw(st.tuples(*[st.floats(0.1, 10)] * 3))
    affine = np.eye(4)
    affine[:3, :3] = draw(rotations() | st.just(np.eye(3))) @ np.eye(3)[order] * signs * steps
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return affine


def numbers(shape=SHAPE):
    return np.arange(np.prod(shape)).reshape(shape)


@given(affines())
def test_turned_axes_run_as_nibabels_canonical_ones(affine):
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # Between two directions both choices are right, and nibabel's other steps may take the other one.
    clear = np.sort(np.abs(columns), axis=0)
    turn, stored = Grid(SHAPE, affine).turn, numbers()
    if (clear[2] - clear[1] > 0.2).all():
        canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(stored.T, affine, dtype=np.int64))
        np.testing.assert_array_equal(turn.there(stored), np.asarray(canonical.dataobj).T)
        np.testing.assert_allclose(turn.spacing(Grid(SHAPE, affine).spacing), canonical.header.get_zooms()[::-1], rtol=1e-5)


@given(affines())
def test_every_turn_uses_every_axis_once_and_can_be_undone(affine):
    turn, stored = Grid(SHAPE, affine).turn, numbers()
    assert sorted(turn.axes) == [0, 1, 2]
    np.testing.assert_array_equal(turn.back(turn.there(stored)), stored)


@given(st.permutations([0, 1, 2]), st.tuples(*[st.booleans()] * 3))
def test_turns_are_views_that_come_back(axes, flips):
    turn, stored = Turn(tuple(axes), flips), numbers()
    there = turn.there(stored)
    assert np.shares_memory(there, stored)
    np.testing.assert_array_equal(turn.back(there), stored)
    assert turn.spacing(SHAPE) == there.shape


@given(affines())
def test_spacing_is_nibabels(affine):
    grid = Grid(SHAPE, affine)
    np.testing.assert_allclose(grid.spacing, nibabel.affines.voxel_sizes(affine)[::-1])
    assert grid.millilitres == pytest.approx(np.prod(grid.spacing) / 1000)


def test_a_grid_that_says_nothing_is_not_turned():
    grid = Grid(SHAPE)
    assert (grid.spacing, grid.millilitres, grid.turn) == (None, None, Turn((0, 1, 2), (False, False, False)))


def test_distances_alone_are_the_spacing():
    grid = Grid(SHAPE, distances=(3.0, 2.0, 1.0))
    assert (grid.spacing, grid.millilitres) == ((3.0, 2.0, 1.0), 0.006)
    assert grid.turn == Grid(SHAPE).turn


def bent(row, column, value):
    affine = np.eye(4)
    affine[row, column] = value
    return affine


@pytest.mark.parametrize(
    "affine",
    [
        bent(0, 3, 1e30),
        bent(0, 3, -2 * FARTHEST),
        bent(1, 1, np.nan),
        bent(1, 1, np.inf),
        bent(2, 2, 0),
        bent(2, 2, 1e-12),
        bent(0, 1, 0.1),
        np.zeros((4, 4)),
        np.eye(3),
    ],
)
def test_affines_that_cannot_be_trusted_are_refused_with_the_files_name(affine):
    with pytest.raises(VolumeGeometryError, match=r"^scan\.nii: affine: "):
        grid_of(SHAPE, "scan.nii", affine=affine)


@pytest.mark.parametrize("distance", [0, -1, np.nan, np.inf, 1e30, 1e-30])
def test_distances_that_cannot_be_trusted_are_refused_with_the_files_name(distance):
    with pytest.raises(VolumeGeometryError, match=r"^scan\.tif: spacing: ") as error:
        grid_of(SHAPE, "scan.tif", distances=(1.0, distance, 1.0))
    assert error.value.__cause__ is not None


def test_what_can_be_trusted_is_taken():
    assert grid_of(SHAPE, "scan", affine=bent(0, 3, FARTHEST)).spacing == (1, 1, 1)
    assert grid_of(SHAPE, "scan", distances=(1e-6, 1, 1)).spacing == (1e-6, 1, 1)
    assert grid_of(SHAPE, "scan").spacing is None
    assert grid_of(SHAPE, "scan", affine=bent(0, 1, 1e-4)).shape == SHAPE
