"""TIFF stacks, held to tifffile, and files that are made to do harm."""

from __future__ import annotations

import errno
import io
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
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
from models.segmenter.formats import open_volume, tiff, write_labels
from models.segmenter.formats.tiff import UNTOLD
from models.segmenter.grid import Grid
from models.segmenter.volume import Limits, Volume

SHAPE = (3, 4, 5)


def numbers(dtype=np.uint8, shape=SHAPE):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def saved(folder, array=None, name="scan.tif", **options):
    tifffile.imwrite(folder / name, numbers() if array is None else array, **{"photometric": "minisblack"} | options)
    return folder / name


def pages(folder, array, bigtiff=False, **options):
    """Page after page, without any description."""
    with tifffile.TiffWriter(folder / "scan.tif", bigtiff=bigtiff) as file:
        for page in array:
            file.write(page, metadata=None, photometric="minisblack", contiguous=False, **options)
    return folder / "scan.tif"


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_every_type_of_number_is_read(tmp_path, dtype, order, compression):
    volume = open_volume(saved(tmp_path, numbers(dtype), byteorder=order, compression=compression), tmp_path)
    assert (volume.kind, volume.grid.shape) == ("tiff", SHAPE)
    assert volume.stored.dtype.newbyteorder("=") == dtype
    np.testing.assert_array_equal(volume.stored, numbers(dtype))


@pytest.mark.parametrize(
    "options",
    [
        {"ome": True, "metadata": {"axes": "ZYX"}},
        {"metadata": None},
        {"bigtiff": True},
        {"tile": (16, 16), "compression": "zlib"},
        {"tile": (16, 16)},
        {"rowsperstrip": 2, "compression": "zlib", "predictor": True},
        {"ome": True, "compression": "zlib", "metadata": {"axes": "ZYX"}},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"metadata": {"axes": "ZYX"}},
    ],
)
def test_stacks_of_every_make_are_read(tmp_path, options):
    np.testing.assert_array_equal(open_volume(saved(tmp_path, **options), tmp_path).stored, numbers())


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_plain_pages_are_a_volume(tmp_path, compression):
    volume = open_volume(pages(tmp_path, numbers(np.uint16), compression=compression), tmp_path)
    np.testing.assert_array_equal(volume.stored, numbers(np.uint16))
    assert (volume.grid, volume.notes) == (Grid(SHAPE), [UNTOLD])


@pytest.mark.parametrize("axes", ["CYX", "TYX"])
@pytest.mark.parametrize("make", ["imagej", "ome"])
def test_channels_and_times_are_no_volume(tmp_path, axes, make):
    with pytest.raises(VolumeShapeError, match=axes):
        open_volume(saved(tmp_path, **{make: True}, metadata={"axes": axes}), tmp_path)


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (numbers(shape=(2, 3, 4, 5)), {"imagej": True, "metadata": {"axes": "TZYX"}}),
        (numbers(shape=(2, 3, 4, 5)), {"ome": True, "metadata": {"axes": "CZYX"}}),
        (numbers(shape=(4, 5)), {}),
        (numbers(shape=(4, 5, 3)), {"photometric": "rgb"}),
        (numbers(shape=(2, 4, 5, 3)), {"photometric": "rgb"}),
        (numbers(), {"metadata": {"axes": "YXZ"}}),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path, array, options):
    with pytest.raises(VolumeShapeError, match=r"^scan\.tif: "):
        open_volume(saved(tmp_path, array, **options), tmp_path)


def test_complex_numbers_are_refused(tmp_path):
    with pytest.raises(VolumeError, match="complex64"):
        open_volume(saved(tmp_path, numbers(np.complex64)), tmp_path)


def test_pages_of_several_sizes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "scan.tif") as file:
        for shape in ((4, 5), (6, 7)):
            file.write(numbers(shape=shape), metadata=None, photometric="minisblack")
    with pytest.raises(VolumeShapeError, match="2 pictures"):
        open_volume(tmp_path / "scan.tif", tmp_path)


def test_limits_are_kept(tmp_path):
    for compression in (None, "zlib"):
        path = saved(tmp_path, compression=compression)
        open_volume(path, tmp_path, limits=Limits(60, 60))
        with pytest.raises(VolumeTooLargeError):
            open_volume(path, tmp_path, limits=Limits(59, 60))


@pytest.mark.parametrize(
    ("unit", "factor"), [("mm", 1), ("cm", 10), ("um", 1e-3), ("micron", 1e-3), ("nm", 1e-6), ("\\u00B5m", 1e-3)]
)
def test_imagejs_distances(tmp_path, unit, factor):
    about = {"axes": "ZYX", "spacing": 3, "unit": unit}
    volume = open_volume(saved(tmp_path, imagej=True, resolution=(1 / 0.5, 1 / 0.25), metadata=about), tmp_path)
    assert volume.grid.spacing == pytest.approx((3 * factor, 0.25 * factor, 0.5 * factor))
    assert (volume.grid.affine, volume.notes) == (None, [])


@pytest.mark.parametrize("about", [{"unit": "mm"}, {"spacing": 3, "unit": "pixel"}, {"spacing": 0, "unit": "mm"}])
def test_distances_that_are_not_told_are_not_known(tmp_path, about):
    volume = open_volume(saved(tmp_path, imagej=True, resolution=(2, 4), metadata={"axes": "ZYX"} | about), tmp_path)
    assert (volume.grid.spacing, volume.notes) == (None, [UNTOLD])


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("µm", 1e-3), ("nm", 1e-6), (None, 1e-3)])
def test_omes_distances(tmp_path, unit, factor):
    about = {"axes": "ZYX"}
    for axis, size in zip("ZYX", (3, 0.25, 0.5), strict=True):
        about[f"PhysicalSize{axis}"] = size
        about |= {f"PhysicalSize{axis}Unit": unit} if unit else {}
    volume = open_volume(saved(tmp_path, ome=True, metadata=about), tmp_path)
    assert volume.grid.spacing == pytest.approx((3 * factor, 0.25 * factor, 0.5 * factor))


def test_distances_beyond_measure_are_refused_with_the_files_name(tmp_path):
    about = {"axes": "ZYX", "spacing": 1e30, "unit": "mm"}
    with pytest.raises(VolumeGeometryError, match=r"^scan\.tif: spacing"):
        open_volume(saved(tmp_path, imagej=True, resolution=(1, 1), metadata=about), tmp_path)


ELSEWHERE = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:a"><Image ID="Image:0">'
    '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="5" SizeY="4" SizeZ="2" SizeC="1" SizeT="1">'
    '<Channel ID="c" SamplesPerPixel="1"/>'
    '<TiffData IFD="0" FirstZ="0" PlaneCount="1"><UUID FileName="scan.tif">urn:uuid:a</UUID></TiffData>'
    '<TiffData IFD="0" FirstZ="1" PlaneCount="1"><UUID FileName="{other}">urn:uuid:b</UUID></TiffData>'
    "</Pixels></Image></OME>"
)


@pytest.mark.parametrize("absolute", [True, False])
def test_no_other_file_is_read(tmp_path, absolute, monkeypatch):
    (inner := tmp_path / "inner").mkdir()
    secret = saved(tmp_path, np.full((4, 5), 77, np.uint8), "secret.tif", metadata=None)
    text = ELSEWHERE.format(other=secret if absolute else "../secret.tif")
    path = saved(inner, np.zeros((4, 5), np.uint8), metadata=None, description=text)
    assert 77 in tifffile.imread(path)  # so it would be
    opened = []
    monkeypatch.setattr(tifffile.TiffFile, "__init__", _watched(tifffile.TiffFile.__init__, opened))
    with pytest.raises(VolumeShapeError):
        open_volume(path, tmp_path)
    assert len(opened) == 1


def _watched(original, opened):
    def init(self, file, *arguments, **options):
        opened.append(file)
        original(self, file, *arguments, **options)

    return init


def test_definitions_in_ome_xml_are_refused(tmp_path):
    text = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "b">]>' + ELSEWHERE.format(other="x.tif")
    with pytest.raises(VolumeError, match="definitions"):
        open_volume(saved(tmp_path, metadata=None, description=text), tmp_path)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_cut_files_are_refused(tmp_path, compression):
    path = saved(tmp_path, numbers(shape=(3, 40, 50)), compression=compression, metadata=None)
    content = path.read_bytes()
    for kept in range(8, len(content), 97):
        path.write_bytes(content[:kept])
        with pytest.raises(InputError):
            open_volume(path, tmp_path)
    path = pages(tmp_path, numbers(), compression=compression)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VolumeTruncatedError, match="page 2: the file ends early"):
        open_volume(path, tmp_path)


@pytest.mark.parametrize("bigtiff", [True, False])
@pytest.mark.parametrize("target", [0, 1, 2])
def test_pages_that_run_in_a_circle_are_refused(tmp_path, bigtiff, target):
    path = pages(tmp_path, numbers(), bigtiff=bigtiff)
    with tifffile.TiffFile(path) as file:
        offsets, form = [page.offset for page in file.pages], file.tiff
    content = bytearray(path.read_bytes())
    (count,) = struct.unpack_from(form.tagnoformat, content, offsets[-1])
    struct.pack_into(form.offsetformat, content, offsets[-1] + form.tagnosize + count * form.tagsize, offsets[target])
    path.write_bytes(content)
    with pytest.raises(VolumeError, match="circle"):
        open_volume(path, tmp_path)


def test_more_pages_than_a_volume_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "MOST_PAGES", 2)
    with pytest.raises(VolumeError, match="too many"):
        open_volume(pages(tmp_path, numbers()), tmp_path)


def test_a_strip_that_unfolds_to_more_than_its_size_is_refused(tmp_path):
    path = pages(tmp_path, numbers(shape=(3, 40, 50)), compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[1].dataoffsets[0], file.pages[1].databytecounts[0]
    bomb = zlib.compress(bytes(10**5))
    assert len(bomb) <= count
    content = bytearray(path.read_bytes())
    content[offset : offset + len(bomb)] = bomb
    path.write_bytes(content)
    with pytest.raises(VolumeError, match="page 1: a strip or tile unfolds"):
        open_volume(path, tmp_path)


def test_errors_of_the_machine_are_no_fault_of_the_file(tmp_path, monkeypatch):
    path = saved(tmp_path, compression="zlib")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", full)
    with pytest.raises(OSError, match="No space left"):
        open_volume(path, tmp_path)


@pytest.mark.parametrize("spacing", [(3.0, 0.25, 0.5), None])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_label_maps_come_back(tmp_path, dtype, spacing):
    labels = numbers(dtype) % 3
    write_labels(labels, Volume("scan", "tiff", Grid(SHAPE, distances=spacing), labels), tmp_path / "labels.tif", ["a", "b", "c"])
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "labels.tif"), labels)
    with tifffile.TiffFile(tmp_path / "labels.tif") as file:
        assert (file.is_imagej, file.series[0].axes) == (True, "ZYX")
    again = open_volume(tmp_path / "labels.tif", tmp_path).grid.spacing
    assert again == (spacing if spacing is None else pytest.approx(spacing))


def _small(**options):
    file = io.BytesIO()
    tifffile.imwrite(file, numbers(), photometric="minisblack", **options)
    return file.getvalue()


SMALL = [
    _small(metadata=None),
    _small(compression="zlib"),
    _small(imagej=True, resolution=(2, 2), metadata={"axes": "ZYX", "spacing": 1, "unit": "mm"}),
    _small(ome=True, compression="zlib", predictor=True, metadata={"axes": "ZYX"}),
]


@given(st.data())
@settings(max_examples=150)
def test_damaged_bytes_are_a_volume_or_an_error_for_people(data):
    content = bytearray(data.draw(st.sampled_from(SMALL)))
    for place in data.draw(st.lists(st.integers(4, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    kept = data.draw(st.none() | st.integers(0, len(content)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.tif"
        path.write_bytes(content[:kept])
        try:
            volume = open_volume(path, Path(folder), limits=Limits(10**6, 10**7))
        except InputError:
            return
        assert volume.stored.shape == volume.grid.shape
