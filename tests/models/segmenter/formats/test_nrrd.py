"""NRRD against SimpleITK, and against what is no NRRD."""

import contextlib
import gzip

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
from models.segmenter.formats import nrrd
from models.segmenter.grid import LPS_TO_RAS, Grid
from models.segmenter.volume import Limits, Volume

LINES = {
    "type": "uint8",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "4 3 2",
    "space directions": "(0.5,0,0) (0,1,0) (0,0,2)",
    "space origin": "(1,2,3)",
    "encoding": "raw",
}


def image_of(dtype, seed=0):
    """A turned SimpleITK image of 5 × 4 × 3 voxels (x, y, z)."""
    voxels = np.random.default_rng(seed).integers(0, 100, (3, 4, 5)).astype(dtype)
    image = sitk.GetImageFromArray(voxels)
    angle = -0.2
    turned = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
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
    changes = {key.replace("_", " "): value for key, value in changes.items()}
    lines = [f"{key}: {value}\n" for key, value in (LINES | changes).items() if value is not None]
    path = folder / "a.nrrd"
    path.write_bytes(("NRRD0005\n# a comment\n" + "".join(lines) + "key:=value\n\n").encode() + data)
    return path


def read(path, **limits):
    return nrrd.read(path, path.parent, Limits(**limits), path.name)


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"])
def test_what_simpleitk_writes_reads_equal(tmp_path, dtype, packed, suffix):
    voxels, image = image_of(dtype)
    sitk.WriteImage(image, tmp_path / f"a{suffix}", useCompression=packed)
    volume = read(tmp_path / f"a{suffix}")
    assert volume.kind == "nrrd"
    assert volume.stored.dtype == voxels.dtype
    assert np.array_equal(volume.stored, voxels)
    assert np.allclose(volume.grid.affine, affine_of(image), rtol=0, atol=1e-9)
    assert np.allclose(volume.grid.spacing, (2.5, 0.8, 0.7))


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_what_is_written_reads_equal_in_simpleitk(tmp_path, dtype):
    voxels, image = image_of("i2")
    sitk.WriteImage(image, tmp_path / "a.nrrd")
    labels = (voxels % 3).astype(dtype)
    nrrd.write(labels, read(tmp_path / "a.nrrd"), tmp_path / ".x.a.nrrd", ["background", "左 a", "b\nc"])
    other = sitk.ReadImage(tmp_path / ".x.a.nrrd")
    assert np.array_equal(sitk.GetArrayFromImage(other), labels)
    assert sitk.GetArrayFromImage(other).dtype == labels.dtype
    assert np.allclose(other.GetDirection(), image.GetDirection(), rtol=0, atol=1e-12)
    assert np.allclose(other.GetSpacing(), image.GetSpacing(), rtol=0, atol=1e-12)
    assert np.allclose(other.GetOrigin(), image.GetOrigin(), rtol=0, atol=1e-12)
    assert other.GetMetaData("label 1") == "左 a"
    again = read(tmp_path / ".x.a.nrrd")
    assert np.array_equal(again.stored, labels)
    assert np.allclose(again.grid.affine, affine_of(image), rtol=0, atol=1e-12)


@pytest.mark.parametrize("distances", [None, (2.0, 0.5, 0.25)])
def test_labels_without_affine(tmp_path, distances):
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    nrrd.write(labels, Volume("v", "tiff", Grid((2, 3, 4), distances=distances), labels), tmp_path / "a.nrrd", ["b"])
    volume = read(tmp_path / "a.nrrd")
    assert np.array_equal(volume.stored, labels)
    assert volume.grid.affine is None
    assert volume.grid.distances == distances
    assert volume.notes
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "a.nrrd")), labels)


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("RAS", (1, 1)),
        ("right-anterior-superior", (1, 1)),
        ("LAS", (-1, 1)),
        ("Left-Anterior-Superior", (-1, 1)),
        ("LPS", (-1, -1)),
    ],
)
def test_spaces(tmp_path, space, signs):
    affine = read(made(tmp_path, space=space)).grid.affine
    assert np.allclose(affine[:3, :3], np.diag([signs[0] * 0.5, signs[1] * 1.0, 2.0]))
    assert np.allclose(affine[:3, 3], (signs[0] * 1, signs[1] * 2, 3))


def test_space_units(tmp_path):
    assert read(made(tmp_path, space_units='"um" "um" "um"')).grid.spacing == pytest.approx((0.002, 0.001, 0.0005))


def test_without_space(tmp_path):
    bare = {"space": None, "space_directions": None, "space_origin": None}
    volume = read(made(tmp_path, spacings="0.5 1 2", **bare))
    assert volume.grid.affine is None
    assert volume.grid.distances == (2.0, 1.0, 0.5)
    volume = read(made(tmp_path, **bare))
    assert volume.grid.spacing is None
    volume = read(made(tmp_path, space=None, space_dimension="3"))
    assert volume.grid.affine is None
    assert volume.grid.distances == (2.0, 1.0, 0.5)
    assert volume.notes


def test_an_axis_of_values_of_length_one(tmp_path):
    directions = "none (0.5,0,0) (0,1,0) (0,0,2)"
    volume = read(made(tmp_path, dimension="4", sizes="1 4 3 2", space_directions=directions))
    assert volume.grid.shape == (2, 3, 4)
    assert volume.grid.spacing == (2.0, 1.0, 0.5)
    assert volume.stored.ravel().tolist() == list(range(24))


def test_byte_skip(tmp_path):
    for skip in ("4", "-1"):
        assert read(made(tmp_path, b"head" + bytes(range(24)), byte_skip=skip)).stored.ravel().tolist() == list(range(24))
    packed = gzip.compress(b"head" + bytes(range(24)))
    assert read(made(tmp_path, packed, encoding="gz", byte_skip="4")).stored.ravel().tolist() == list(range(24))


def test_big_endian(tmp_path):
    voxels = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    assert np.array_equal(read(made(tmp_path, voxels.tobytes(), type="short", endian="big")).stored, voxels)


@pytest.mark.parametrize("word", ["../a.raw", "/etc/hostname", "link.raw", "none.raw", "..", "sub", "LIST", "a%03d.raw 1 2 1"])
def test_file_of_voxels_elsewhere(tmp_path, word):
    (folder := tmp_path / "inner").mkdir()
    (folder / "sub").mkdir()
    (tmp_path / "a.raw").write_bytes(bytes(24))
    (folder / "link.raw").symlink_to(tmp_path / "a.raw")
    with pytest.raises(VolumeError, match="data file"):
        read(made(folder, b"", data_file=word))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"dimension": "2", "sizes": "4 6", "space directions": "(1,0,0) (0,1,0)"}, VolumeShapeError, "three axes"),
        ({"dimension": "4", "sizes": "2 4 3 2", "space directions": None}, VolumeShapeError, "three axes"),
        ({"dimension": "x"}, VolumeError, "dimension"),
        ({"dimension": None}, VolumeError, "dimension"),
        ({"sizes": "4 3"}, VolumeError, "sizes"),
        ({"sizes": "4 3 -2"}, VolumeError, "sizes"),
        ({"sizes": "4 3 0"}, VolumeShapeError, "three axes"),
        ({"sizes": "9 9 9"}, VolumeTruncatedError, "729"),
        ({"type": "block"}, VolumeError, "block"),
        ({"type": "int"}, VolumeError, "endian"),
        ({"encoding": "bzip2"}, VolumeError, "bzip2"),
        ({"encoding": "ascii"}, VolumeError, "ascii"),
        ({"encoding": None}, VolumeError, "encoding"),
        ({"encoding": "gzip"}, VolumeError, "unpacked"),
        ({"encoding": "gzip", "byte skip": "-1"}, VolumeError, "byte skip"),
        ({"line skip": "2"}, VolumeError, "line skip"),
        ({"space directions": "(1,0,0) (0,1,0)"}, VolumeError, "directions"),
        ({"space directions": "(1,0,0) (0,x,0) (0,0,1)"}, VolumeError, "vector"),
        ({"space directions": "(1,0,0) (0.5,1,0) (0,0,1)"}, VolumeGeometryError, "sheared"),
        ({"space directions": "(1,0,0) (0,0,0) (0,0,1)"}, VolumeGeometryError, "length"),
        ({"space origin": "(1,2)"}, VolumeError, "origin"),
    ],
)
def test_refused(tmp_path, changes, error, text):
    with pytest.raises(error, match=text):
        read(made(tmp_path, **changes))


def test_limits_before_anything_is_unpacked(tmp_path):
    with pytest.raises(VolumeTooLargeError, match="voxels"):
        read(made(tmp_path, b"", sizes="40000 40000 40000", encoding="gzip"))
    with pytest.raises(VolumeTooLargeError, match="bytes"):
        read(made(tmp_path), bytes=23)
    assert not (tmp_path / "voxels").exists()


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_damage_is_an_input_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    labels = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    volume = Volume("v", "nrrd", Grid((2, 3, 4), np.diag([1.0, 2.0, 3.0, 1.0])), labels)
    path = folder / "a.nrrd"
    nrrd.write(labels, volume, path, ["background"])
    whole = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(InputError):
        opened = read(path, bytes=2**20)
        assert np.asarray(opened.stored).shape == opened.grid.shape
