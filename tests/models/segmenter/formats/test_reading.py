from __future__ import annotations

import errno
import gzip
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from models.errors import VolumeError, VolumeKindError
from models.segmenter.formats import open_volume
from models.segmenter.formats.reading import kind_of
from tests.scans import ball, save

SHAPE = (14, 18, 12)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_volumes_may_share_a_folder(tmp_path, suffix):
    first, second = (ball(SHAPE, seed)[0] for seed in (0, 1))
    paths = [save(tmp_path / f"{number}{suffix}", array) for number, array in enumerate((first, second))]
    (scratch := tmp_path / "scratch").mkdir()
    volumes = [open_volume(path, scratch) for path in [*paths, *paths]]
    for volume, array in zip(volumes, [first, second] * 2, strict=True):
        np.testing.assert_array_equal(volume.stored, array)


def test_zips_may_share_a_folder_too(tmp_path):
    arrays = [ball(SHAPE, seed)[0] for seed in (0, 1)]
    for number, array in enumerate(arrays):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as file:
            file.write(save(tmp_path / str(number) / "scan.nii.gz", array), "scan.nii.gz")
    volumes = [open_volume(tmp_path / f"{number}.zip", tmp_path) for number in (0, 1)]
    for volume, array in zip(volumes, arrays, strict=True):
        np.testing.assert_array_equal(volume.stored, array)


def test_kinds_are_told_by_content_not_by_name(tmp_path):
    path = save(tmp_path / "scan.nii.gz", ball(SHAPE)[0]).rename(tmp_path / "scan.tif")
    assert (kind_of(path, "scan"), open_volume(path, tmp_path, name="mine").name) == ("nifti", "mine")


@pytest.mark.parametrize("content", [b"", b"x", b"hello" * 100, gzip.compress(b"hello" * 100, mtime=0), b"\x1f\x8b"])
def test_what_is_no_volume_is_refused(tmp_path, content):
    (tmp_path / "notes.nii").write_bytes(content)
    with pytest.raises(VolumeKindError, match=r"^notes\.nii: "):
        open_volume(tmp_path / "notes.nii", tmp_path)


@pytest.mark.parametrize("name", ["missing.nii", "x" * 300, "nul\0.nii"])
def test_files_that_are_not_there_are_told(tmp_path, name):
    with pytest.raises(VolumeError, match="scan: "):
        open_volume(tmp_path / name, tmp_path, name="scan")


def test_what_is_neither_file_nor_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(VolumeError, match="neither a file nor a folder"):
        open_volume(tmp_path / "pipe", tmp_path)


@pytest.mark.parametrize(("number", "kind"), [(errno.EACCES, VolumeError), (errno.EMFILE, OSError), (errno.EIO, OSError)])
def test_permissions_are_for_people_and_the_machines_errors_for_the_machine(tmp_path, monkeypatch, number, kind):
    path = save(tmp_path / "scan.nii", ball(SHAPE)[0])

    def refuse(*arguments, **options):
        raise OSError(number, "no")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(kind, match="no"):
        open_volume(path, tmp_path)


def test_nothing_is_left_of_what_fails(tmp_path):
    path = save(tmp_path / "scan.nii.gz", ball(SHAPE)[0])
    path.write_bytes(path.read_bytes()[:-9])
    (scratch := tmp_path / "scratch").mkdir()
    with pytest.raises(VolumeError):
        open_volume(path, scratch)
    assert list(scratch.iterdir()) == []
