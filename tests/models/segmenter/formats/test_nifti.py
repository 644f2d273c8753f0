"""NIfTI, held to nibabel: what either writes, the other reads."""

from __future__ import annotations

import gzip
import struct
import tempfile
import tracemalloc
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
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
from models.segmenter.formats import open_volume, write_labels
from models.segmenter.grid import Grid
from models.segmenter.volume import Limits, Volume

SHAPE = (3, 4, 5)
AFFINE = np.array([[0, -2, 0, 10], [-1.5, 0, 0, 20], [0, 0, 3, -30], [0, 0, 0, 1.0]])


def numbers(dtype=np.int16, shape=SHAPE):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def image_of(array, affine=AFFINE, kind=nibabel.Nifti1Image, order="<"):
    """A (z, y, x) array as nibabel's image."""
    header = kind.header_class(endianness=order)
    header.set_data_dtype(array.dtype)
    return kind(array.T, affine, header)


def saved(folder, image, name="scan.nii"):
    nibabel.save(image, folder / name)
    return folder / name


def changed(path, **fields):
    """The same file, some fields of its header replaced."""
    content = bytearray(path.read_bytes())
    second = content[:4] == struct.pack("<i", 540)
    kind = nibabel.Nifti2Header if second else nibabel.Nifti1Header
    header = kind(bytes(content[: 540 if second else 348]), check=False)
    for field, value in fields.items():
        header[field] = value
    content[: len(header.binaryblock)] = header.binaryblock
    path.write_bytes(content)
    return path


@pytest.fixture
def scan(tmp_path):
    return saved(tmp_path, image_of(numbers()))


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_what_nibabel_writes_is_read(tmp_path, kind, order, name):
    path = saved(tmp_path, image_of(numbers(), kind=kind, order=order), name)
    volume = open_volume(path, tmp_path)
    assert (volume.kind, volume.grid.shape, volume.notes) == ("nifti", SHAPE, [])
    np.testing.assert_array_equal(volume.stored, numbers())
    np.testing.assert_allclose(volume.grid.affine, nibabel.load(path).affine, atol=1e-6)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_every_type_of_number_is_read(tmp_path, dtype):
    volume = open_volume(saved(tmp_path, image_of(numbers(dtype))), tmp_path)
    assert volume.stored.dtype == dtype
    np.testing.assert_array_equal(volume.stored, numbers(dtype))


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (numbers(np.complex64), VolumeError),
        (np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), VolumeError),
        (numbers(shape=(4, 5)), VolumeShapeError),
        (numbers(shape=(2, 3, 4, 5)), VolumeShapeError),
        (numbers(shape=(2, 1, 3, 4, 5)), VolumeShapeError),
    ],
)
def test_what_is_no_volume_of_numbers_is_refused(tmp_path, array, error):
    with pytest.raises(error, match=r"^scan\.nii: "):
        open_volume(saved(tmp_path, image_of(array)), tmp_path)


def test_a_type_that_nifti_does_not_have_is_refused(scan, tmp_path):
    with pytest.raises(VolumeError, match="datatype"):
        open_volume(changed(scan, datatype=17), tmp_path)


def test_a_fourth_axis_of_length_one_is_dropped(tmp_path):
    volume = open_volume(saved(tmp_path, image_of(numbers(shape=(1, *SHAPE)))), tmp_path)
    assert volume.grid.shape == volume.stored.shape == SHAPE


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_an_offset_of_zero_is_where_the_header_ends(tmp_path, kind):
    path = changed(saved(tmp_path, image_of(numbers(), kind=kind)), vox_offset=0)
    np.testing.assert_array_equal(open_volume(path, tmp_path).stored, numbers())


@pytest.mark.parametrize("offset", [-1, 100, np.nan, np.inf, 1e20])
def test_offsets_that_cannot_be_are_refused(scan, tmp_path, offset):
    with pytest.raises(VolumeError, match=r"scan\.nii: vox_offset"):
        open_volume(changed(scan, vox_offset=offset), tmp_path)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_extensions_before_the_voxels_are_passed_over(tmp_path, name):
    image = image_of(numbers())
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 5000))
    np.testing.assert_array_equal(open_volume(saved(tmp_path, image, name), tmp_path).stored, numbers())


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [(0, 7, (1, 0)), (np.nan, 7, (1, 0)), (np.inf, 7, (1, 0)), (1, 0, (1, 0)), (-2.5, 7, (-2.5, 7))],
)
def test_slopes_are_those_of_the_standard(scan, tmp_path, slope, intercept, expected):
    volume = open_volume(changed(scan, scl_slope=slope, scl_inter=intercept), tmp_path)
    assert (volume.slope, volume.intercept) == expected
    np.testing.assert_allclose(volume.stored.T * volume.slope + volume.intercept, nibabel.load(scan).get_fdata())


def test_an_intercept_that_is_no_number_is_refused(scan, tmp_path):
    with pytest.raises(VolumeError, match="scl_inter"):
        open_volume(changed(scan, scl_slope=2, scl_inter=np.nan), tmp_path)


@pytest.mark.parametrize(("units", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 1e-3), (2 | 8, 1), (7, 1)])
def test_lengths_are_in_the_headers_unit(scan, tmp_path, units, factor):
    grid = open_volume(changed(scan, xyzt_units=units), tmp_path).grid
    np.testing.assert_allclose(grid.affine[:3], AFFINE[:3] * factor)
    np.testing.assert_allclose(grid.spacing, np.array([3, 2, 1.5]) * factor)


@pytest.mark.parametrize("qfac", [1, 0, -1])
def test_the_qform_is_believed_where_there_is_no_sform(tmp_path, qfac):
    image = image_of(numbers())
    image.set_qform(AFFINE * [1, 1, 1 if qfac >= 0 else -1, 1] * [-1, 1, 1, 1], 1)
    path = changed(saved(tmp_path, image), sform_code=0)
    expected = nibabel.load(path).get_qform()
    if qfac == 0:
        changed(path, pixdim=[0, *nibabel.load(path).header["pixdim"][1:]])
    volume = open_volume(path, tmp_path)
    np.testing.assert_allclose(volume.grid.affine, expected, atol=1e-5)
    assert volume.notes == []


def test_a_note_tells_where_sform_and_qform_differ(tmp_path):
    image = image_of(numbers())
    image.set_sform(AFFINE, 1)
    image.set_qform(np.diag([1, 1, 1, 1.0]), 1)
    volume = open_volume(saved(tmp_path, image), tmp_path)
    np.testing.assert_allclose(volume.grid.affine, AFFINE)
    assert "sform and qform differ" in volume.notes[0]


def test_a_damaged_qform_beside_an_sform_is_but_a_note(tmp_path):
    image = image_of(numbers())
    image.set_qform(AFFINE, 1)
    volume = open_volume(changed(saved(tmp_path, image), quatern_b=5, quatern_c=5), tmp_path)
    np.testing.assert_allclose(volume.grid.affine, AFFINE)
    assert "sform and qform differ" in volume.notes[0]


def test_with_neither_form_only_the_distances_are_known(scan, tmp_path):
    volume = open_volume(changed(scan, sform_code=0, qform_code=0), tmp_path)
    assert (volume.grid.affine, volume.grid.spacing) == (None, (3, 2, 1.5))
    assert "no sform, no qform" in volume.notes[0]
    volume = open_volume(changed(scan, pixdim=[1, 0, 0, 0, 0, 0, 0, 0]), tmp_path)
    assert volume.grid.spacing is None
    assert "how far" in volume.notes[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"srow_x": [1e30, 0, 0, 0]},
        {"srow_x": [np.nan, 0, 0, 0]},
        {"sform_code": 0, "qform_code": 1, "quatern_b": 3},
        {"sform_code": 0, "qform_code": 1, "qoffset_x": np.inf},
        {"sform_code": 0, "qform_code": 0, "pixdim": [1, 1e30, 1, 1, 0, 0, 0, 0]},
    ],
)
def test_geometry_that_cannot_be_trusted_is_refused_with_the_files_name(scan, tmp_path, fields):
    with pytest.raises(VolumeGeometryError, match=r"^scan\.nii: "):
        open_volume(changed(scan, **fields), tmp_path)


def test_pairs_are_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(numbers().T, AFFINE), tmp_path / "pair.img")
    with pytest.raises(VolumeError, match="two files"):
        open_volume(tmp_path / "pair.hdr", tmp_path)


@pytest.mark.parametrize("kept", [0, 3, 200, 347, 352, 400])
def test_cut_files_are_refused(scan, tmp_path, kept):
    scan.write_bytes(scan.read_bytes()[:kept])
    with pytest.raises(InputError):
        open_volume(scan, tmp_path)


def test_a_cut_file_says_how_much_there_is(scan, tmp_path):
    scan.write_bytes(scan.read_bytes()[:-1])
    with pytest.raises(VolumeTruncatedError, match="expected 120 bytes of voxels, got 119"):
        open_volume(scan, tmp_path)


def zipped(tmp_path, flat, after=b""):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(flat, mtime=0) + after)
    return path


def test_a_gzip_cut_anywhere_is_refused(scan, tmp_path):
    whole = gzip.compress(scan.read_bytes(), mtime=0)
    path = tmp_path / "scan.nii.gz"
    for kept in [*range(0, len(whole) - 10, 11), *range(len(whole) - 10, len(whole))]:
        path.write_bytes(whole[:kept])
        with pytest.raises(InputError) as error:
            open_volume(path, tmp_path)
        if kept > len(whole) - 9:
            assert type(error.value) is VolumeTruncatedError
            assert "checksum" in str(error.value)


def test_a_gzip_with_a_wrong_checksum_is_refused(scan, tmp_path):
    path = zipped(tmp_path, scan.read_bytes())
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    with pytest.raises(VolumeError, match="unpacked"):
        open_volume(path, tmp_path)


@pytest.mark.parametrize("after", [b"", bytes(600), b"junk", gzip.compress(b"more", mtime=0)])
@pytest.mark.parametrize("inside", [b"", b"more voxels"])
def test_what_follows_the_voxels_is_passed_over(scan, tmp_path, inside, after):
    np.testing.assert_array_equal(open_volume(zipped(tmp_path, scan.read_bytes() + inside, after), tmp_path).stored, numbers())


def endless(scan, path, offset=None):
    """The scan, and after its header 200 MB of zeros, packed."""
    changed(scan, vox_offset=offset or 352)
    packer = zlib.compressobj(1, wbits=31)
    with path.open("wb") as file:
        file.write(packer.compress(scan.read_bytes()[:352]))
        for _ in range(200):
            file.write(packer.compress(bytes(10**6)))
        file.write(packer.flush())
    return path


@pytest.mark.parametrize("offset", [352, 10**8])
def test_a_gzip_that_unfolds_without_end_is_read_as_far_as_the_header_says(scan, tmp_path, offset):
    path = endless(scan, tmp_path / "endless.nii.gz", offset)
    (scratch := tmp_path / "scratch").mkdir()
    tracemalloc.start()
    try:
        volume = open_volume(path, scratch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert volume.stored.shape == SHAPE
    assert sum(each.stat().st_size for each in scratch.rglob("*") if each.is_file()) == 120
    assert peak < 10 * 2**20


@pytest.mark.parametrize(
    ("kind", "size"), [(nibabel.Nifti1Image, 32767), (nibabel.Nifti2Image, 65535), (nibabel.Nifti2Image, 2**60)]
)
def test_a_header_that_promises_too_much_is_refused_before_anything_is_made(tmp_path, kind, size):
    path = saved(tmp_path, image_of(numbers(), kind=kind))
    changed(path, dim=[3, size, size, size, 1, 1, 1, 1])
    packed = zipped(tmp_path, path.read_bytes())
    for each in (path, packed):
        tracemalloc.start()
        try:
            with pytest.raises(VolumeTooLargeError, match="too many voxels"):
                open_volume(each, tmp_path)
            assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    "dim",
    [[0] * 8, [8, *[1] * 7], [-1, *[1] * 7], [3, -5, 4, 3, 1, 1, 1, 1], [3, 5, 0, 3, 1, 1, 1, 1], [3, -1, 1, 1, 1, 1, 1, 1]],
)
def test_axes_that_cannot_be_are_refused(scan, tmp_path, dim):
    with pytest.raises(InputError, match=r"scan\.nii"):
        open_volume(changed(scan, dim=dim), tmp_path)


def test_limits_are_kept(scan, tmp_path):
    open_volume(scan, tmp_path, limits=Limits(60, 120))
    for limits in (Limits(59, 120), Limits(60, 119)):
        with pytest.raises(VolumeTooLargeError):
            open_volume(scan, tmp_path, limits=limits)


LABELS = (numbers() % 3).astype(np.uint8)


@pytest.mark.parametrize("name", ["labels.nii", "labels.nii.gz"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_nibabel_reads_what_is_written(tmp_path, kind, order, name, dtype):
    image = image_of(numbers(), kind=kind, order=order)
    image.set_qform(AFFINE, 2)
    path = saved(tmp_path, image)
    write_labels(LABELS.astype(dtype), open_volume(path, tmp_path), tmp_path / name, ["a", "b", "c"])
    written, source = nibabel.load(tmp_path / name), nibabel.load(path)
    np.testing.assert_array_equal(np.asarray(written.dataobj).T, LABELS)
    assert written.get_data_dtype() == dtype
    np.testing.assert_array_equal(written.affine, source.affine)
    np.testing.assert_allclose(written.get_qform(), source.get_qform(), atol=1e-12)
    assert [int(written.header[code]) for code in ("sform_code", "qform_code")] == [2, 2]
    assert written.header.get_xyzt_units() == source.header.get_xyzt_units()


@pytest.mark.parametrize(
    "grid", [Grid(SHAPE, AFFINE), Grid(SHAPE, distances=(3.0, 2.0, 1.5)), Grid(SHAPE)], ids=["affine", "distances", "none"]
)
def test_grids_of_other_kinds_come_back(tmp_path, grid):
    write_labels(LABELS, Volume("scan", "nrrd", grid, LABELS), tmp_path / "labels.nii.gz", ["a", "b", "c"])
    again = open_volume(tmp_path / "labels.nii.gz", tmp_path)
    np.testing.assert_array_equal(again.stored, LABELS)
    if grid.affine is None:
        assert again.grid.affine is None
        assert again.grid.spacing == (grid.spacing or (1, 1, 1))
    else:
        np.testing.assert_allclose(again.grid.affine, AFFINE, atol=1e-5)


def test_distances_that_were_told_go_into_the_label_map(scan, tmp_path):
    volume = open_volume(changed(scan, sform_code=0, qform_code=0, pixdim=[1, 0, 0, 0, 0, 0, 0, 0]), tmp_path)
    volume.grid = Grid(SHAPE, distances=(4.0, 5.0, 6.0))
    write_labels(LABELS, volume, tmp_path / "labels.nii", ["a", "b", "c"])
    assert nibabel.load(tmp_path / "labels.nii").header.get_zooms() == (6, 5, 4)


def test_a_long_axis_makes_it_nifti_2(tmp_path):
    labels = np.zeros((1, 1, 2**15), np.uint8)
    write_labels(labels, Volume("scan", "nrrd", Grid(labels.shape, np.eye(4)), labels), tmp_path / "labels.nii", ["a"])
    written = nibabel.load(tmp_path / "labels.nii")
    assert (type(written), written.shape) == (nibabel.Nifti2Image, (2**15, 1, 1))


def test_the_same_labels_are_the_same_bytes(scan, tmp_path):
    volume = open_volume(scan, tmp_path)
    first, second = (write_labels(LABELS, volume, tmp_path / name, ["a"]).read_bytes() for name in ("1.nii.gz", "2.nii.gz"))
    assert first == second


def _flat(kind, **fields):
    with tempfile.TemporaryDirectory() as folder:
        return changed(saved(Path(folder), image_of(numbers(np.uint8), kind=kind)), **fields).read_bytes()


PLAIN = [
    _flat(nibabel.Nifti1Image, qform_code=1),
    _flat(nibabel.Nifti2Image),
    _flat(nibabel.Nifti1Image, sform_code=0, qform_code=1),
]


@given(st.data())
@settings(max_examples=150)
def test_damaged_bytes_are_a_volume_or_an_error_for_people(data):
    flat = bytearray(data.draw(st.sampled_from(PLAIN)))
    packed = data.draw(st.booleans())
    inside = data.draw(st.booleans())
    content = bytearray(gzip.compress(flat, mtime=0)) if packed and not inside else flat
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.none() | st.integers(0, len(content)))])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan"
        path.write_bytes(gzip.compress(content, mtime=0) if packed and inside else content)
        try:
            volume = open_volume(path, Path(folder), limits=Limits(10**6, 10**7))
        except InputError:
            return
        assert volume.stored.shape == volume.grid.shape
