"""Strip by strip gives what the whole volume at once would give."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.segmenter.restoring import Restorer
from models.segmenter.sampling import Between
from models.segmenter.whole import Layout, decide, score_volume

sizes = st.tuples(*[st.integers(1, 12)] * 3)


def scored(shape, window, overlap, margin=(0, 0, 0), classes=3, workers=1):
    """Strips of a network whose scores follow from a voxel's own value; the same for the whole volume at once."""
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rates = np.linspace(-1, 1, classes, dtype=np.float32)[:, None, None, None]
    inner = tuple(slice(lost, size - lost) for lost, size in zip(margin, window, strict=True))

    def read(place, size):
        whole = np.zeros(size, np.float32)
        parts = [(max(0, a), min(a + s, n)) for a, s, n in zip(place, size, shape, strict=True)]
        there = tuple(slice(low - a, high - a) for (low, high), a in zip(parts, place, strict=True))
        whole[there] = values[tuple(slice(low, high) for low, high in parts)]
        return whole

    layout = Layout(shape, window, margin, overlap)

    def network(given):
        return np.sin(3 * rates * given[0][inner])

    return score_volume(read, network, layout, classes, workers), np.sin(3 * rates * values)


@settings(deadline=None)
@given(sizes, st.tuples(*[st.integers(3, 8)] * 3), st.floats(0, 0.8), st.integers(0, 1), st.integers(1, 2))
def test_windows_of_any_size_cover_a_volume_of_any_size_once(shape, window, overlap, lost, workers):
    strips, whole = scored(shape, window, overlap, (lost, lost, lost), workers=workers)
    seen = np.full(whole.shape, np.nan, np.float32)
    for strip in strips:
        _, z, y, x = strip.scores.shape
        part = seen[:, strip.z : strip.z + z, strip.y : strip.y + y, :x]
        assert np.isnan(part).all()
        part[...] = strip.scores
    np.testing.assert_allclose(seen, whole, atol=1e-5)


@settings(deadline=None)
@given(sizes, sizes, st.tuples(*[st.integers(2, 6)] * 3), st.floats(0, 0.7))
def test_labels_are_those_of_the_whole_volume_interpolated_at_once(seen, target, window, overlap):
    strips, whole = scored(seen, window, overlap)
    labels = np.full(target, 99, np.uint8)
    restorer = Restorer(seen, labels)
    for strip in strips:
        restorer.add(strip)
    for axis in range(3):
        whole = Between.axis(target[axis], seen[axis]).interpolate(whole, axis + 1)
    ordered = np.sort(whole, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-4
    assert labels.max() < 3
    assert np.array_equal(labels[clear], decide(whole)[clear])


@given(st.integers(1, 40), st.integers(1, 40))
def test_interpolation_is_numpys_on_the_middles_of_voxels(size, of):
    values = np.random.default_rng(size).normal(size=of).astype(np.float32)
    places = (np.arange(size) + 0.5) * of / size - 0.5
    expected = np.interp(places, np.arange(of), values)
    np.testing.assert_allclose(Between.axis(size, of).interpolate(values, 0), expected, atol=1e-5)
    part = Between.axis(size, of, size // 3)
    if size // 3 < size:
        span = part.span()
        np.testing.assert_allclose(part.interpolate(values[span], 0, span.start), expected[size // 3 :], atol=1e-5)


def test_of_equal_scores_the_first_class_is_taken():
    assert not decide(np.zeros((4, 2, 2, 2), np.float32)).any()
