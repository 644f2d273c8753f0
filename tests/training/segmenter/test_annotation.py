"""Which voxels count."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError, DataFormatError
from tests.scans import ball
from training.segmenter.annotation import Annotation
from training.segmenter.losses import UNANNOTATED


def test_all_counts_where_nothing_is_said():
    _, labels = ball()
    assert np.array_equal(Annotation().apply(labels.astype(np.float32), "x", 3), labels)


def test_a_label_that_means_nobody_painted():
    _, labels = ball()
    labels[0] = 255
    found = Annotation(ignore=255).apply(labels, "x", 3)
    assert (found[0] == UNANNOTATED).all()
    assert np.array_equal(found[1:], labels[1:])
    with pytest.raises(DataFormatError, match=r"labels without a class: expected 0 to 2, got \[255\]"):
        Annotation().apply(labels, "x", 3)


def test_listed_slices_of_each_axis_count(tmp_path):
    _, labels = ball()
    path = tmp_path / "slices.json"
    path.write_text(json.dumps({"one": {"z": [4], "x": [0, 11]}, "*": {"y": [2]}}))
    annotation = Annotation(slices=str(path))
    one, other = annotation.apply(labels, "one", 3), annotation.apply(labels, "other", 3)
    expected = np.full(labels.shape, UNANNOTATED, np.int16)
    expected[4], expected[:, :, [0, 11]] = labels[4], labels[:, :, [0, 11]]
    assert np.array_equal(one, expected)
    assert (other != UNANNOTATED).sum() == labels.shape[0] * labels.shape[2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"*": {"z": [14]}}', r"x: z: no such slice: expected 0 to 13, got 14"),
        ('{"*": {"z": [-1]}}', "no such slice"),
        ('{"*": {"t": [1]}}', "no such axis"),
        ('{"y": {"z": [1]}}', "no list of slices"),
        ("[1]", "no list of slices"),
        ("{", "no list of slices"),
    ],
)
def test_slices_that_are_not_there(tmp_path, content, said):
    path = tmp_path / "slices.json"
    path.write_text(content)
    with pytest.raises(DataFormatError, match=said):
        Annotation(slices=str(path)).apply(ball()[1], "x", 3)


@given(st.integers(1, 9), st.sampled_from(["z", "zy", "xyz"]))
def test_kept_slices_are_as_many_as_asked_for_and_hold_something(count, axes):
    _, labels = ball()
    found = Annotation(keep=count, axes=axes).apply(labels, "x", 3)
    assert np.array_equal(found[found != UNANNOTATED], labels[found != UNANNOTATED])
    for axis in axes:
        number = "zyx".index(axis)
        others = tuple(other for other in range(3) if other != number)
        whole = np.flatnonzero((found != UNANNOTATED).all(axis=others))
        inside = (labels > 0).any(axis=others)
        assert len(whole) >= min(count, inside.sum())
        if axes == axis:
            assert inside[whole].all()
            assert len(whole) <= count


@given(st.integers(1, 30))
def test_staggered_slices_are_as_many_and_lie_elsewhere_in_each_volume(count):
    labels = np.ones((24, 5, 5), np.int16)
    seen = np.zeros(24, int)
    for case in range(200):
        found = Annotation(keep=count, axes="z", stagger=True).apply(labels, f"case {case}", 2)
        whole = np.flatnonzero((found != UNANNOTATED).all(axis=(1, 2)))
        assert len(whole) == min(count, 24)
        seen[whole] += 1
    assert seen.min() > 0


def test_settings_that_mean_nothing():
    with pytest.raises(ConfigError, match="no slices"):
        Annotation(keep=0)
    with pytest.raises(ConfigError, match="no such axes"):
        Annotation(axes="t")
    with pytest.raises(DataFormatError, match="no whole numbers"):
        Annotation().apply(np.full((2, 2, 2), 0.5), "x", 3)
