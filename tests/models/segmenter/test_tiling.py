from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ConfigError
from models.segmenter.tiling import Axis, score_strips, window_weights

SIZES = st.tuples(*[st.integers(1, 13)] * 3)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 0.95))
def test_windows_cover_an_axis_and_lie_inside(size, window, overlap):
    axis = Axis(size, min(size, window), overlap)
    covered = np.zeros(size, int)
    for start in axis.starts:
        assert 0 <= start <= size - axis.window
        covered[start : start + axis.window] += 1
    assert covered.min() >= 1
    assert sum(axis.finals) == size
    assert len(axis.starts) == axis.count
    assert [len(axis.touching(at, at + 1)) for at in range(size)] == covered.tolist()


def test_the_weights_are_those_of_monai():
    """Some of ``compute_importance_map((16, 8, 12), mode="gaussian", sigma_scale=0.125)``, monai 1.6.1."""
    theirs = {
        (0, 0, 0): 0.0010000000474974513,
        (7, 3, 5): 0.8091219663619995,
        (8, 4, 6): 0.8091219663619995,
        (4, 2, 3): 0.017507273703813553,
        (7, 0, 5): 0.0020056129433214664,
        (2, 3, 5): 0.01902872510254383,
        (7, 3, 2): 0.056220583617687225,
        (5, 6, 9): 0.0013221814297139645,
    }
    ours = window_weights([Axis(size, size, 0.5) for size in (16, 8, 12)])
    assert ours.dtype == np.float32
    assert {place: ours[place] for place in theirs} == pytest.approx(theirs, rel=1e-6)
    assert (ours <= 0.0010001).mean() == 0.578125


def drawn_axes(sizes, windows, overlap):
    return [Axis(size, min(size, window), overlap) for size, window in zip(sizes, windows, strict=True)]


def read_from(volume, axes):
    def read(place):
        return volume[:, *(slice(start, start + axis.window) for start, axis in zip(place, axes, strict=True))]

    return read


def assembled(strips, shape):
    whole, times = np.zeros(shape, np.float32), np.zeros(shape[1:], int)
    for z, y, scores in strips:
        place = slice(z, z + scores.shape[1]), slice(y, y + scores.shape[2])
        whole[:, *place] = scores
        times[place] += 1
    assert (times == 1).all()
    return whole


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, st.sampled_from([0.0, 0.25, 0.5, 0.8]), st.integers(1, 3), st.integers(0, 99))
def test_strips_are_the_weighted_mean_of_all_windows(sizes, windows, overlap, workers, seed):
    """Against the plain way: all windows into one map, divided by the map of their Gaussian weights."""
    axes = drawn_axes(sizes, windows, overlap)
    volume = np.random.default_rng(seed).standard_normal((1, *sizes)).astype(np.float32)
    mask = np.random.default_rng(seed + 1).standard_normal((2, *(axis.window for axis in axes))).astype(np.float32)

    def network(window):  # depends on where in its window a voxel lies, as near borders real ones do
        return mask * window + window.mean()

    bells = [np.exp(-0.5 * ((np.arange(a.window) - (a.window - 1) / 2) / (a.window / 8)) ** 2) for a in axes]
    bell = np.maximum(bells[0][:, None, None] * bells[1][:, None] * bells[2], 1e-3)
    total, weight = np.zeros((2, *sizes)), np.zeros(sizes)
    for z in axes[0].starts:
        for y in axes[1].starts:
            for x in axes[2].starts:
                place = tuple(slice(start, start + axis.window) for start, axis in zip((z, y, x), axes, strict=True))
                total[:, *place] += bell * network(volume[:, *place])
                weight[place] += bell
    got = assembled(score_strips(read_from(volume, axes), network, axes, 2, workers), (2, *sizes))
    np.testing.assert_allclose(got, total / weight, atol=2e-5)


@given(SIZES, SIZES, st.floats(0, 0.9))
def test_a_constant_stays_constant_up_to_the_border(sizes, windows, overlap):
    axes = drawn_axes(sizes, windows, overlap)
    volume = np.full((1, *sizes), 3.0, np.float32)
    got = assembled(score_strips(read_from(volume, axes), lambda window: window, axes, 1), (1, *sizes))
    np.testing.assert_allclose(got, 3.0, rtol=1e-6)


def test_an_error_of_the_network_is_the_callers():
    axes = drawn_axes((6, 6, 6), (4, 4, 4), 0.5)

    def network(window):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        next(score_strips(read_from(np.zeros((1, 6, 6, 6), np.float32), axes), network, axes, 1, 2))


def test_workers_go_on_where_rows_end():
    """Each window waits for another to be at work, and rows have one window."""
    axes = drawn_axes((6, 10, 4), (4, 4, 4), 0.5)
    volume = np.random.default_rng(0).standard_normal((1, 6, 10, 4)).astype(np.float32)
    pair = threading.Barrier(2, timeout=60)

    def network(window):
        pair.wait()
        return window

    np.testing.assert_allclose(
        assembled(score_strips(read_from(volume, axes), network, axes, 1, 2), volume.shape), volume, atol=1e-5
    )


def test_strips_that_nobody_wants_are_not_scored():
    axes = drawn_axes((20, 20, 20), (4, 4, 4), 0.0)
    volume, scored = np.zeros((1, 20, 20, 20), np.float32), []

    def network(window):
        scored.append(1)
        return window

    strips = score_strips(read_from(volume, axes), network, axes, 1, 2)
    next(strips)
    strips.close()
    assert len(scored) <= 5 + 3


@pytest.mark.parametrize(("arguments", "message"), [((4, 5, 0.5), "1 to 4"), ((4, 0, 0.5), "window"), ((4, 2, 1.0), "overlap")])
def test_windows_that_do_not_lie(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Axis(*arguments)
