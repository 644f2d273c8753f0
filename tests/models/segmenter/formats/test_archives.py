"""Zips that hold a volume, and zips that are out for harm."""

import contextlib
import io
import stat
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import (
    InputError,
    VolumeError,
    VolumeKindError,
    VolumeTooLargeError,
    VolumeTruncatedError,
)
from models.segmenter.formats import metaimage, open_volume, write_labels
from models.segmenter.formats.archives import unzip
from models.segmenter.grid import Grid
from models.segmenter.volume import Limits, Volume

DICOM = bytes(128) + b"DICM" + bytes(32)


def mha(tmp_path):
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    metaimage.write(labels, Volume("v", "mha", Grid((2, 3, 4)), labels), tmp_path / "source.mha", [])
    return (tmp_path / "source.mha").read_bytes()


def made(tmp_path, members, method=zipfile.ZIP_DEFLATED):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for inner, data in members:
            archive.writestr(inner, data)
    return path


def opened(tmp_path, path, **limits):
    (scratch := tmp_path / "scratch").mkdir(exist_ok=True)
    return unzip(path, scratch, Limits(**limits), "a.zip")


def nothing_written(tmp_path):
    return not [each for each in (tmp_path / "scratch").rglob("*") if each.is_file()]


def test_a_volume_file(tmp_path):
    data = mha(tmp_path)
    members = [
        ("sub/", ""),
        ("sub/a.mha", data),
        ("sub/readme.txt", "text"),
        ("__MACOSX/sub/._a.mha", b"x"),
        ("sub/.DS_Store", b"x"),
    ]
    found = opened(tmp_path, made(tmp_path, members))
    assert found == tmp_path / "scratch" / "members" / "sub" / "a.mha"
    assert found.read_bytes() == data
    assert not (tmp_path / "scratch" / "members" / "__MACOSX").exists()


def test_from_zip_to_label_map(tmp_path):
    (scratch := tmp_path / "scratch").mkdir()
    volume = open_volume(made(tmp_path, [("sub/a.mha", mha(tmp_path))]), scratch)
    assert volume.stored.ravel().tolist() == list(range(24))
    target = write_labels(np.asarray(volume.stored), volume, tmp_path / "labels.zarr", ["background", "a"])
    (again := tmp_path / "again").mkdir()
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for each in target.rglob("*"):
            archive.write(each, each.relative_to(tmp_path))
    assert np.array_equal(open_volume(tmp_path / "b.zip", again).stored, volume.stored)


def test_backslashes_are_folders(tmp_path):
    assert opened(tmp_path, made(tmp_path, [("sub\\a.mha", mha(tmp_path))])).parent.name == "sub"


def test_a_header_with_its_voxels_beside_it(tmp_path):
    header = mha(tmp_path).split(b"LOCAL\n")[0] + b"a.raw\n"
    assert opened(tmp_path, made(tmp_path, [("a.mhd", header), ("a.raw", b"data")])).name == "a.mhd"


def test_a_series(tmp_path):
    members = [("DICOMDIR", DICOM), ("in/1", DICOM), ("in/2.dcm", DICOM), ("in/notes.txt", "text")]
    assert opened(tmp_path, made(tmp_path, members)) == tmp_path / "scratch" / "members" / "in"


@pytest.mark.parametrize("root", ["", "a.zarr/", "deep/a.zarr/"])
@pytest.mark.parametrize("file", [".zattrs", "zarr.json"])
def test_an_image(tmp_path, root, file):
    members = [(f"{root}{file}", "{}"), (f"{root}.zgroup", "{}"), (f"{root}0/{file}", "{}"), (f"{root}0/0/0/0", DICOM)]
    assert opened(tmp_path, made(tmp_path, members)) == tmp_path / "scratch" / "members" / root


@pytest.mark.parametrize(
    "inner", ["../a.mha", "/a.mha", "a/../../b.mha", "..\\a.mha", "C:\\a.mha", "\\a.mha", "a\n.mha", "x" * 300, "a/" * 40 + "b"]
)
def test_members_that_would_lie_elsewhere(tmp_path, inner):
    with pytest.raises(VolumeError):
        opened(tmp_path, made(tmp_path, [("good.mha", mha(tmp_path)), (inner, b"x")]))
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFBLK])
def test_links_and_devices(tmp_path, kind):
    info = zipfile.ZipInfo("link")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    with pytest.raises(VolumeError, match="link"):
        opened(tmp_path, made(tmp_path, [(info, "/etc/passwd")]))
    assert nothing_written(tmp_path)


def test_a_member_in_place_of_a_folder(tmp_path):
    with pytest.raises(VolumeError):
        opened(tmp_path, made(tmp_path, [("a", b"x"), ("a/b", b"x")]))


def test_two_members_of_one_name(tmp_path):
    with pytest.raises(VolumeError, match="one name"):
        opened(tmp_path, made(tmp_path, [("a/b", b"x"), ("a\\b", b"y")]))


def test_encrypted(tmp_path):
    path = made(tmp_path, [("a.mha", mha(tmp_path))])
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.rfind(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(VolumeError, match="password"):
        opened(tmp_path, path)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_methods(tmp_path, method):
    with pytest.raises(VolumeError, match="method"):
        opened(tmp_path, made(tmp_path, [("a.mha", b"x")], method))


@pytest.mark.parametrize("inner", ["a.zip", "a.dat"])
def test_a_zip_in_a_zip(tmp_path, inner):
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr("a", b"x")
    with pytest.raises(VolumeKindError, match="a zip in a zip"):
        opened(tmp_path, made(tmp_path, [(inner, buffer.getvalue())]))


def test_too_many_bytes(tmp_path):
    with pytest.raises(VolumeTooLargeError, match="1,000,000"):
        opened(tmp_path, made(tmp_path, [("a", bytes(500_000)), ("b", bytes(500_001))]), bytes=1_000_000)
    assert nothing_written(tmp_path)


def test_too_many_members(tmp_path):
    path = made(tmp_path, [(f"{number}", b"") for number in range(10_001)])
    with pytest.raises(VolumeTooLargeError, match="10,001"):
        opened(tmp_path, path)
    data = bytearray(path.read_bytes())
    struct.pack_into("<HH", data, data.rfind(b"PK\5\6") + 8, 1, 1)  # a lie, which zipfile does not look at
    path.write_bytes(data)
    with pytest.raises(VolumeTooLargeError):
        opened(tmp_path, path)


def test_a_long_directory(tmp_path):
    path = tmp_path / "a.zip"
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 10**9, 10**9, 2**40, 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    path.write_bytes(record + locator + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
    with pytest.raises(VolumeTooLargeError, match="1,000,000,000"):
        opened(tmp_path, path)


@pytest.mark.parametrize("declared", [10, 1_000])
def test_a_member_that_holds_other_than_it_declares(tmp_path, declared):
    path = made(tmp_path, [("a.mha", bytes(500))])
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 22, declared)
    struct.pack_into("<I", data, data.rfind(b"PK\1\2") + 24, declared)
    path.write_bytes(data)
    with pytest.raises(VolumeError):
        opened(tmp_path, path)
    assert sum(each.stat().st_size for each in (tmp_path / "scratch").rglob("*") if each.is_file()) <= max(declared, 500)


def test_a_zip_that_ends_early(tmp_path):
    path = made(tmp_path, [("a.mha", mha(tmp_path))])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(VolumeTruncatedError):
        opened(tmp_path, path)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([], "an empty zip"),
        ([("a.txt", b"text"), ("b.jpg", b"\xff\xd8")], r"2 other files \(a\.txt, b\.jpg\)"),
        ([("a/1", DICOM), ("b/1", DICOM)], "several volumes inside.*a, b"),
        ([("a.nrrd", b"NRRD0004\n"), ("b.nrrd", b"NRRD0004\n")], r"several volumes inside.*a\.nrrd, b\.nrrd"),
        ([("a.nrrd", b"NRRD0004\n"), ("b/1", DICOM)], r"several volumes inside.*a\.nrrd, b"),
        ([("a.zarr/.zgroup", b"{}"), ("b.zarr/.zgroup", b"{}")], r"several volumes inside.*a\.zarr, b\.zarr"),
    ],
)
def test_not_one_volume(tmp_path, members, text):
    with pytest.raises(VolumeKindError, match=text):
        opened(tmp_path, made(tmp_path, members))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_an_input_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    path = made(folder, [("sub/a.mha", mha(folder)), ("b.txt", b"text")])
    whole = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.sampled_from([len(whole), data.draw(st.integers(0, len(whole)))]))])
    with contextlib.suppress(InputError):
        found = opened(folder, path, bytes=2**20)
        assert found.resolve().is_relative_to(folder / "scratch")
        metaimage.read(found, folder, Limits(bytes=2**20), "a.mha")
