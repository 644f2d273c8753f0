"""A volume in, its label map out: what comes of orientation, spacing, windows and borders, on a network whose answer is known."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest

from models.errors import (
    BundleError,
    ConfigError,
    StoppedError,
    UnprocessableError,
    VolumeGeometryError,
    VolumeTooLargeError,
    VolumeValuesError,
)
from models.segmenter import Segmenter
from models.segmenter.volume import Limits
from tests.scans import ball, save
from tests.tiny import tiny_segmenter_bundle, tiny_separator_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_segmenter_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def segmenter(bundle):
    return Segmenter.load(bundle)


def expected(values):
    """What the network of tests.tiny says, computed voxel by voxel."""
    normal = (values - values.mean(dtype=np.float64)) / values.std(dtype=np.float64)
    return np.where(normal > 1.5, 2, np.where(normal > 0.25, 1, 0)).astype(np.uint8)


def away_from_thresholds(values, margin=0.02):
    normal = (values - values.mean(dtype=np.float64)) / values.std(dtype=np.float64)
    return (np.abs(normal - 1.5) > margin) & (np.abs(normal - 0.25) > margin)


@pytest.mark.parametrize("shape", [(8, 8, 8), (5, 20, 9), (23, 17, 30), (1, 1, 3)])
def test_every_voxel_gets_its_class_whatever_the_windows(segmenter, shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = segmenter.segment(values, spacing=(1.0, 1.0, 1.0))
    sure = away_from_thresholds(values)
    assert found.labels.shape == shape
    assert np.array_equal(found.labels[sure], expected(values)[sure])
    assert [each.voxels for each in found.classes] == [int((found.labels == label).sum()) for label in range(3)]


def test_a_constant_volume_is_constant_up_to_its_corners(segmenter):
    found = segmenter.segment(np.full((20, 11, 9), 7, np.int16), spacing=(1.0, 1.0, 1.0))
    assert not found.labels.any()
    assert found.classes[0].millilitres == pytest.approx(20 * 11 * 9 / 1000)


def test_all_48_orientations_of_one_scan_give_one_answer(segmenter, tmp_path):
    """As nibabel turns them; the label map comes back on each file's own grid."""
    values, _ = ball((9, 14, 11))
    affine = nibabel.affines.from_matvec(np.diag([1.0, 1.0, 1.0]), [3.0, -5.0, 8.0])
    image = nibabel.Nifti1Image(values.T, affine)
    straight = segmenter.segment(save(tmp_path / "straight.nii", values, affine)).labels
    assert len(np.unique(straight)) == 3
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            turned = image.as_reoriented(np.stack([axes, flips], 1))
            nibabel.save(turned, tmp_path / "turned.nii")
            segmenter.segment_file(tmp_path / "turned.nii", tmp_path / "labels.nii.gz")
            labels = nibabel.load(tmp_path / "labels.nii.gz")
            assert np.array_equal(labels.affine, turned.affine)
            back = nibabel.as_closest_canonical(labels)
            assert np.array_equal(np.asarray(back.dataobj).T, straight)


def test_another_spacing_is_resampled_there_and_back(segmenter):
    """A smooth volume of half the spacing: the classes lie where they do at its own spacing, but for voxels beside a border."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in (30, 40, 36)), indexing="ij")
    values = np.exp(-2 * (z**2 + y**2 + x**2)).astype(np.float32)
    fine = segmenter.segment(values, spacing=(0.5, 0.5, 0.5))
    own = segmenter.segment(values, spacing=(1.0, 1.0, 1.0))
    assert fine.labels.shape == values.shape
    sure = away_from_thresholds(values, 0.15)
    assert np.array_equal(fine.labels[sure], own.labels[sure])
    assert fine.classes[1].millilitres == pytest.approx(own.classes[1].millilitres / 8, rel=0.05)


def test_mirrored_looks_change_nothing_for_a_network_that_sees_single_voxels(segmenter):
    values, _ = ball()
    plain, looked = (segmenter.segment(values, spacing=(1.0, 1.0, 1.0), flips=flips).labels for flips in ("", "zx"))
    assert np.array_equal(plain, looked)


def test_windows_below_the_plans_value_are_background_without_a_look(tmp_path, segmenter):
    values = np.zeros((8, 8, 40), np.float32)
    values[2:6, 2:6, 30:36] = 100
    skipping = Segmenter.load(tiny_segmenter_bundle(tmp_path, skip_below=0.0))
    looks = []
    run = skipping._runtime.run
    skipping._runtime.run = lambda arrays: looks.append(1) or run(arrays)
    found = skipping.segment(values, spacing=(1.0, 1.0, 1.0)).labels
    assert np.array_equal(found, segmenter.segment(values, spacing=(1.0, 1.0, 1.0)).labels)
    assert found[3, 3, 32] == 2
    assert 0 < len(looks) < 9  # of the nine windows


def test_progress_is_told_and_who_cancels_gets_nothing(segmenter, tmp_path):
    source, target = save(tmp_path / "scan.nii.gz", ball((20, 20, 20))[0]), tmp_path / "labels.nii.gz"
    told = []
    segmenter.segment_file(source, target, progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1))
    target.unlink()
    with pytest.raises(StoppedError):
        segmenter.segment_file(source, target, cancelled=lambda: True)
    assert {path.name for path in tmp_path.iterdir()} == {"scan.nii.gz"}


def test_a_folder_that_is_given_holds_what_lies_on_disk_meanwhile(segmenter, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    (scratch := tmp_path / "scratch").mkdir()
    source, target = save(tmp_path / "scan.nii.gz", ball((20, 20, 20))[0]), tmp_path / "labels.nii.gz"
    held = []
    segmenter.segment_file(source, target, scratch=scratch, seen=lambda *_: held.extend(scratch.iterdir()))
    assert held
    assert target.exists()
    with pytest.raises(FileNotFoundError):
        segmenter.segment_file(source, target)


def test_what_cannot_be_segmented_is_said(segmenter, tmp_path):
    values, _ = ball()
    values[3, 2, 1] = np.nan
    with pytest.raises(VolumeValuesError, match=r"scan\.nii: plane 3"):
        segmenter.segment(save(tmp_path / "scan.nii", values))
    with pytest.raises(VolumeGeometryError, match="--spacing"):
        segmenter.segment(ball()[0])
    with pytest.raises(VolumeGeometryError, match="another spacing"):
        segmenter.segment(save(tmp_path / "other.nii", ball()[0]), spacing=(2.0, 1.0, 1.0))
    with pytest.raises(UnprocessableError, match="flips"):
        segmenter.segment(ball()[0], spacing=(1.0, 1.0, 1.0), flips="t")
    with pytest.raises(ConfigError, match="overwrite"):
        segmenter.segment_file(tmp_path / "other.nii", tmp_path / "other.nii")
    with pytest.raises(BundleError, match="not a segmenter"):
        Segmenter.load(tiny_separator_bundle(tmp_path))


@pytest.mark.parametrize("millimetres", [1e5, 1e9])
def test_a_small_file_that_would_be_endless_work_is_refused(segmenter, tmp_path, millimetres):
    """Found by fuzzing: a header's spacing made a grid of billions of voxels, and the process was killed for its memory."""
    scan = save(tmp_path / "scan.nii", ball()[0], np.diag([millimetres, 1, 1, 1]))
    with pytest.raises(VolumeTooLargeError, match=r"scan\.nii.*windows.*spacing"):
        segmenter.segment(scan)


def test_no_volume_is_more_work_than_the_largest(segmenter, tmp_path):
    """Found by fuzzing: a header's spacing made hours of work of 1,680 voxels."""
    scan = save(tmp_path / "scan.nii", ball()[0], np.diag([5e3, 1, 1, 1]))
    limits = Limits(voxels=10_000)
    with pytest.raises(VolumeTooLargeError, match=r"windows.*spacing"):
        segmenter.segment_file(scan, tmp_path / "labels.nii", limits=limits)
    segmenter.segment_file(save(tmp_path / "scan.nii", ball()[0]), tmp_path / "labels.nii", limits=limits)


def test_what_is_held_of_the_scores_is_bounded(segmenter, tmp_path):
    """A long, thin volume has few voxels; its windows are wider than it."""
    scan = save(tmp_path / "thin.nii", np.zeros((1, 1, 4096), np.float32))
    segmenter.segment_file(scan, tmp_path / "labels.nii")
    with pytest.raises(VolumeTooLargeError, match="bytes of scores"):
        segmenter.segment_file(scan, tmp_path / "labels.nii", limits=Limits(held=10**6))


def test_a_plan_that_does_not_fit_its_network_is_refused(tmp_path):
    for changes, message in (
        ({"classes": ["background", "a"]}, "other classes"),
        ({"window": [0, 8, 8]}, "preprocessing"),
        ({"spacing": [1, 1, -1]}, "not above 0"),
        ({"normalisation": {"kind": "fixed"}}, "needs low"),
    ):
        with pytest.raises(BundleError, match=message):
            Segmenter.load(tiny_segmenter_bundle(tmp_path, **changes))


def test_files_are_told_apart_by_content_and_written_by_name(segmenter, tmp_path):
    values, _ = ball()
    source = save(tmp_path / "scan.nii.gz", values)
    renamed = source.rename(tmp_path / "scan.tif")
    labels = segmenter.segment(renamed).labels
    for name in ("a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.tif"):
        segmenter.segment_file(renamed, tmp_path / name)
        again = segmenter_input(tmp_path / name)
        assert np.array_equal(again, labels), name


def segmenter_input(path: Path):
    """Voxels as our own readers see them; what they see is compared with other libraries in tests of the formats."""
    from models.segmenter.formats import open_volume

    return np.asarray(open_volume(path, path.parent).stored)
