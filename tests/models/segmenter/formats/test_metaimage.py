"""MetaImage against SimpleITK, and against what is no MetaImage."""

import contextlib

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import (
    InputError,
    VolumeError,
    VolumeGeometryError,
    VolumeShapeError,
    VolumeTooLargeError,
    VolumeTruncatedError,
)
from models.segmenter.formats import metaimage
from models.segmenter.grid import LPS_TO_RAS, Grid
from models.segmenter.volume import Limits, Volume

LINES = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "1 2 3",
    "ElementSpacing": "0.5 1 2",
    "DimSize": "4 3 2",
    "ElementType": "MET_UCHAR",
    "ElementDataFile": "LOCAL",
}


def image_of(dtype, seed=0):
    """A turned SimpleITK image of 5 × 4 × 3 voxels (x, y, z)."""
    voxels = np.random.default_rng(seed).integers(0, 100, (3, 4, 5)).astype(dtype)
    image = sitk.GetImageFromArray(voxels)
    angle = 0.3
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, -1]])
    image.SetDirection(turned.ravel().tolist())
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-10.0, 20.0, 30.5))
    return voxels, image


def affine_of(image):
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine


def made(folder, data=bytes(range(24)), **changes):
    lines = {key: value for key, value in (LINES | changes).items() if value is not None}
    if "ElementDataFile" in lines:
        lines["ElementDataFile"] = lines.pop("ElementDataFile")  # which ends the header
    path = folder / "a.mha"
    path.write_bytes("".join(f"{key} = {value}\n" for key, value in lines.items()).encode() + data)
    return path


def read(path, **limits):
    return metaimage.read(path, path.parent, Limits(**limits), path.name)


@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"])
def test_what_simpleitk_writes_reads_equal(tmp_path, dtype, packed, suffix):
    voxels, image = image_of(dtype)
    sitk.WriteImage(image, tmp_path / f"a{suffix}", useCompression=packed)
    volume = read(tmp_path / f"a{suffix}")
    assert volume.kind == "mha"
    assert volume.stored.dtype == voxels.dtype
    assert np.array_equal(volume.stored, voxels)
    assert np.allclose(volume.grid.affine, affine_of(image), rtol=0, atol=1e-9)
    assert np.allclose(volume.grid.spacing, (2.5, 0.8, 0.7))


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_what_is_written_reads_equal_in_simpleitk(tmp_path, dtype):
    voxels, image = image_of("i2")
    sitk.WriteImage(image, tmp_path / "a.mha")
    labels = (voxels % 3).astype(dtype)
    metaimage.write(labels, read(tmp_path / "a.mha"), tmp_path / ".x.a.mha", ["background", "a", "b"])
    other = sitk.ReadImage(tmp_path / ".x.a.mha")
    assert np.array_equal(sitk.GetArrayFromImage(other), labels)
    assert sitk.GetArrayFromImage(other).dtype == labels.dtype
    assert np.allclose(other.GetDirection(), image.GetDirection(), rtol=0, atol=1e-12)
    assert np.allclose(other.GetSpacing(), image.GetSpacing(), rtol=0, atol=1e-12)
    assert np.allclose(other.GetOrigin(), image.GetOrigin(), rtol=0, atol=1e-12)
    again = read(tmp_path / ".x.a.mha")
    assert np.array_equal(again.stored, labels)
    assert np.allclose(again.grid.affine, affine_of(image), rtol=0, atol=1e-12)


@pytest.mark.parametrize("distances", [None, (2.0, 0.5, 0.25)])
def test_labels_without_affine(tmp_path, distances):
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    metaimage.write(labels, Volume("v", "tiff", Grid((2, 3, 4), distances=distances), labels), tmp_path / "a.mha", ["b"])
    volume = read(tmp_path / "a.mha")
    assert np.array_equal(volume.stored, labels)
    assert volume.grid.affine is None
    assert volume.grid.distances == distances
    assert volume.notes
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "a.mha")), labels)


def test_big_endian(tmp_path):
    voxels = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    path = made(tmp_path, voxels.tobytes(), BinaryDataByteOrderMSB="True", ElementType="MET_SHORT")
    assert np.array_equal(read(path).stored, voxels)


def test_file_of_voxels_beside_it(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"head" + bytes(range(24)))
    for header_size in ("4", "-1"):
        path = made(tmp_path, b"", HeaderSize=header_size, ElementDataFile="a.raw")
        assert read(path).stored.ravel().tolist() == list(range(24))


def test_four_axes_of_which_one_is_alone(tmp_path):
    matrix = " ".join(str(int(value)) for value in np.eye(4).ravel())
    path = made(tmp_path, NDims="4", DimSize="4 3 2 1", TransformMatrix=matrix, Offset="1 2 3 0", ElementSpacing="0.5 1 2 1")
    volume = read(path)
    assert volume.stored.shape == (2, 3, 4)
    assert volume.grid.spacing == (2.0, 1.0, 0.5)


@pytest.mark.parametrize("word", ["../a.raw", "/etc/hostname", "link.raw", "none.raw", "..", "sub", "LIST", "a%03d.raw 1 2 1"])
def test_file_of_voxels_elsewhere(tmp_path, word):
    (folder := tmp_path / "inner").mkdir()
    (folder / "sub").mkdir()
    (tmp_path / "a.raw").write_bytes(bytes(24))
    (folder / "link.raw").symlink_to(tmp_path / "a.raw")
    with pytest.raises(VolumeError, match="ElementDataFile"):
        read(made(folder, b"", ElementDataFile=word))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"NDims": "2", "DimSize": "4 6", "TransformMatrix": "1 0 0 1", "Offset": "0 0"}, VolumeShapeError, "three axes"),
        ({"NDims": "x"}, VolumeError, "NDims"),
        ({"DimSize": "4 3"}, VolumeError, "DimSize"),
        ({"DimSize": None}, VolumeError, "DimSize"),
        ({"DimSize": "4 3 -2"}, VolumeShapeError, "three axes"),
        ({"DimSize": "4 3 2.5"}, VolumeError, "DimSize"),
        ({"DimSize": "4 3 1e300"}, VolumeError, "DimSize"),
        ({"DimSize": "9 9 9"}, VolumeTruncatedError, "729"),
        ({"ElementType": "MET_OTHER"}, VolumeError, "MET_OTHER"),
        ({"ElementNumberOfChannels": "3"}, VolumeShapeError, "Channels"),
        ({"ElementSpacing": "1 nan 1"}, VolumeError, "ElementSpacing"),
        ({"ElementSpacing": "1 0 1"}, VolumeGeometryError, "length"),
        ({"TransformMatrix": "1 0 0 0.5 1 0 0 0 1"}, VolumeGeometryError, "sheared"),
        ({"BinaryData": "False"}, VolumeError, "text"),
        ({"CompressedData": "True"}, VolumeError, "unpacked"),
        ({"ElementDataFile": None}, VolumeError, "header"),
        ({"HeaderSize": "x", "ElementDataFile": "a.mha"}, VolumeError, "HeaderSize"),
    ],
)
def test_refused(tmp_path, changes, error, text):
    with pytest.raises(error, match=text):
        read(made(tmp_path, **changes))


def test_limits_before_anything_is_unpacked(tmp_path):
    path = made(tmp_path, b"", DimSize="40000 40000 40000", CompressedData="True")
    with pytest.raises(VolumeTooLargeError, match="voxels"):
        read(path)
    with pytest.raises(VolumeTooLargeError, match="bytes"):
        read(made(tmp_path), bytes=23)
    assert not (tmp_path / "voxels").exists()


def test_packed_voxels_that_end_early(tmp_path):
    _, image = image_of("f8")
    sitk.WriteImage(image, tmp_path / "a.mha", useCompression=True)
    data = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(data[:-100])
    with pytest.raises(VolumeTruncatedError):
        read(tmp_path / "a.mha")


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_damage_is_an_input_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    labels = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    volume = Volume("v", "mha", Grid((2, 3, 4), np.diag([1.0, 2.0, 3.0, 1.0])), labels)
    path = folder / "a.mha"
    metaimage.write(labels, volume, path, ["background"])
    whole = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(InputError):
        opened = read(path, bytes=2**20)
        assert np.asarray(opened.stored).shape == opened.grid.shape
