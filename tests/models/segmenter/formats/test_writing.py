from __future__ import annotations

import errno

import numpy as np
import pytest

from models.errors import ConfigError
from models.segmenter.formats import default_suffix, open_volume, write_labels
from models.segmenter.formats import nifti as nifti_format
from models.segmenter.formats.writing import SUFFIXES, WRITERS, check_target, suffix_of
from models.segmenter.grid import Grid
from models.segmenter.volume import Volume

LABELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 3
CLASSES = ["a", "b", "c"]


def volume(kind="nifti"):
    return Volume("scan", kind, Grid(LABELS.shape, np.diag([1.0, 2.0, 3.0, 1.0])), LABELS)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".tif", ".tiff", ".TIF"])
def test_every_kind_comes_back(tmp_path, suffix):
    target = write_labels(LABELS, volume(), tmp_path / "deep" / f"labels{suffix}", CLASSES)
    again = open_volume(target, tmp_path)
    np.testing.assert_array_equal(again.stored, LABELS)
    assert again.grid.spacing == pytest.approx((3, 2, 1))
    assert list(target.parent.iterdir()) == [target]


def test_every_kind_of_volume_has_a_writer_of_its_own():
    assert set(SUFFIXES.values()) <= set(WRITERS)
    assert default_suffix(volume("mha")) == ".mha"


@pytest.mark.parametrize("name", ["labels", "labels.png", ".nii", "nii.gz"])
def test_unknown_endings_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"ends in \.nii\.gz"):
        suffix_of(tmp_path / name)


def test_dicom_seg_needs_a_dicom_series(tmp_path):
    with pytest.raises(ConfigError, match=r"Take \.nrrd"):
        check_target(tmp_path / "labels.dcm", volume("nrrd"))
    assert check_target(tmp_path / "labels.dcm", volume("dicom")) == "dicom_seg"


def test_a_full_disk_leaves_the_former_file_and_is_told_apart(tmp_path, monkeypatch):
    target = write_labels(LABELS, volume(), tmp_path / "labels.nii", CLASSES)
    before = target.read_bytes()

    def full(labels, volume, partial, classes):
        partial.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(nifti_format, "write", full)
    with pytest.raises(ConfigError, match="No space left") as error:
        write_labels(LABELS * 0, volume(), target, CLASSES)
    # The services answer 503 to what an OSError caused.
    assert isinstance(error.value.__cause__, OSError)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_is_replaced(tmp_path):
    target = write_labels(LABELS, volume(), tmp_path / "labels.nii", CLASSES)
    write_labels(LABELS * 0, volume(), target, CLASSES)
    assert not open_volume(target, tmp_path).stored.any()
