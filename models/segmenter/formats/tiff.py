"""TIFF stacks: ImageJ's, OME's and plain ones of many pages, by tifffile. They say nothing of how a volume lies."""

from __future__ import annotations

import io
import logging
import math
import os
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import VolumeError, VolumeShapeError
from models.segmenter.formats.unpacking import guarded, map_raw, truncated
from models.segmenter.grid import Spacing, grid_of
from models.segmenter.volume import Limits, Volume, check_kind, check_shape

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

MILLIMETRES = {
    "mm": 1.0, "millimeter": 1.0, "cm": 10.0, "centimeter": 10.0, "m": 1000.0, "inch": 25.4, "in": 25.4,
    "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "\\u00b5m": 1e-3,
    "nm": 1e-6, "nanometer": 1e-6, "pm": 1e-9, "å": 1e-7,
}  # fmt: skip
UNTOLD = "The file does not say how far its voxels are apart."
MOST_PAGES = 100_000
LARGEST = 2**28  # bytes of a page that is unpacked, which is held
SLACK = 2**12  # bytes that a packed strip may take beyond twice those of its voxels
PLAIN, ZLIB, PACKBITS = 1, (8, 32946), 32773  # compressions
VOLUMES = ("IYX", "QYX", "ZYX", "QQQ")  # axes, slowest first, of what is taken for a volume


def read(path: Path, scratch: Path, limits: Limits, name: str) -> Volume:
    """Open a file; see ``open_volume``."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    fix = "The file is damaged, or of a kind of TIFF that is not read: export it again, uncompressed."
    with (
        io.BufferedReader(_Alone(path)) as stream,
        guarded(name, "the TIFF cannot be read", fix),
        tifffile.TiffFile(stream, _multifile=False) as file,
    ):
        return _read(file, path, scratch, limits, name)


class _Alone(io.FileIO):
    """A file that seems to be a stream, beside which there are no others.

    A TIFF of OME's or Micro-Manager's may name files that belong to it, and tifffile would read any that lies on this machine.
    """

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


def _read(file: TiffFile, path: Path, scratch: Path, limits: Limits, name: str) -> Volume:
    if file.is_ome and "<!DOCTYPE" in (file.ome_metadata or ""):
        raise VolumeError("OME-XML with definitions of its own", where=name, expected="OME-XML of the schema alone")
    _check_pages(file, name)
    series = file.series[0]
    dtype = check_kind(np.dtype(series.dtype), name)
    shape = check_shape(_shape(series, len(file.series), name), dtype.itemsize, limits, name)
    # Closing the file does not close the map.
    if series.dataoffset is not None:
        order: Literal[">", "<"] = ">" if file.byteorder == ">" else "<"
        stored = map_raw(path, series.dataoffset, shape, dtype.newbyteorder(order), name)
    else:
        stored = _unpacked(series, path, scratch / "voxels", shape, dtype, name)
    distances = _ome_distances(file) or _imagej_distances(file)
    notes = [] if distances else [UNTOLD]
    if len(file.series) > 1:
        notes.append(f"The file holds {len(file.series)} pictures: the first was read.")
    return Volume(name, "tiff", grid_of(shape, name, distances=distances), stored, notes=notes, source=None)


def _check_pages(file: TiffFile, name: str) -> None:
    """Refuse pages of which one leads back to an earlier one: tifffile would follow them for hours.

    Where the chain breaks off, it is left to tifffile to say so.
    """
    form, stream = file.tiff, file.filehandle
    offset, seen = file.pages.first.offset, set[int]()
    while offset and offset < stream.size:
        if offset in seen or len(seen) == MOST_PAGES:
            expected = f"a chain of at most {MOST_PAGES:,} pages"
            raise VolumeError("the pages run in a circle, or are too many", where=name, expected=expected, got=f"{len(seen):,}")
        seen.add(offset)
        stream.seek(offset)
        if len(count := stream.read(form.tagnosize)) < form.tagnosize:
            return
        stream.seek(struct.unpack(form.tagnoformat, count)[0] * form.tagsize, os.SEEK_CUR)
        if len(following := stream.read(form.offsetsize)) < form.offsetsize:
            return
        (offset,) = struct.unpack(form.offsetformat, following)


def _shape(series: TiffPageSeries, count: int, name: str) -> tuple[int, ...]:
    """Of the axes, the slowest first.

    Raises:
        VolumeShapeError: they are not those of a volume, as far as their names tell.
    """
    shape, axes = tuple(int(size) for size in series.shape), series.axes
    if axes.endswith("S"):
        if shape[-1] > 1:
            raise VolumeShapeError("colours", where=name, expected="one value a voxel", got=f"{shape} ({axes})")
        shape, axes = shape[:-1], axes[:-1]
    if len(shape) < 3 and count > 1:
        got = f"{count} pictures of several kinds"
        raise VolumeShapeError("not one stack", where=name, expected="pages of one size and type", got=got)
    if len(shape) == 3 and axes not in VOLUMES:
        fix = "Send one volume; of a series over time or of several channels, each alone."
        got = f"{shape} ({axes})"
        raise VolumeShapeError("not a volume", where=name, expected="axes ZYX, or pages of axes YX", got=got, fix=fix)
    return shape


def _unpacked(
    series: TiffPageSeries, path: Path, target: Path, shape: tuple[int, int, int], dtype: np.dtype[Any], name: str
) -> NDArray[Any]:
    """Page after page, unpacked onto disk."""
    pages = [page for page in series if page is not None]
    size, left = divmod(math.prod(shape), max(1, len(pages)))
    if left or len(pages) != len(series):
        got = f"{len(pages)} pages of {len(series)}"
        raise VolumeError("pages are missing", where=name, expected=f"those of {shape} voxels", got=got)
    whole = max(size, math.prod(series.keyframe.shaped)) * dtype.itemsize
    if whole > LARGEST:
        raise VolumeError("a page is too large to be unpacked", where=name, expected=f"{LARGEST:,} bytes", got=f"{whole:,}")
    with path.open("rb") as packed, target.open("wb") as file:
        for number, page in enumerate(pages):
            _check_segments(packed, page, dtype.itemsize, f"{name}: page {number}")
            values = page.asarray(maxworkers=1)
            if values.size != size:
                place = f"{name}: page {number}"
                raise VolumeError("a page of another size", where=place, expected=f"{size:,} voxels", got=f"{values.size:,}")
            file.write(np.ascontiguousarray(values, dtype).tobytes())
    return np.memmap(target, dtype, "r", shape=shape)


def _check_segments(file: BinaryIO, page: TiffPage | TiffFrame, itemsize: int, where: str) -> None:
    """Refuse a page whose strips or tiles lie beyond the file's end, or unfold to more than they should.

    The decoder takes whatever they unfold to.
    """
    keyframe = page.keyframe
    if keyframe is None:
        raise VolumeError("a page without a description", where=where, expected="the tags of a TIFF page")
    kind = int(keyframe.compression)
    if kind not in (PLAIN, PACKBITS, *ZLIB):
        fix = "Export it again, uncompressed or with deflate (zlib)."
        expected, got = "none, deflate or PackBits", str(keyframe.compression)
        raise VolumeError("a compression that is not read", where=where, expected=expected, got=got, fix=fix)
    end = file.seek(0, os.SEEK_END)
    most = math.prod(keyframe.chunks) * itemsize
    if most > LARGEST:
        raise VolumeError("a strip or tile is too large", where=where, expected=f"{LARGEST:,} bytes", got=f"{most:,}")
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if offset + count > end:
            raise truncated(where, count, max(0, end - offset))
        if count > 2 * most + SLACK:
            raise VolumeError("a strip or tile of too many bytes", where=where, expected=f"{most:,}", got=f"{count:,}")
        if kind in ZLIB and count:
            file.seek(offset)
            if len(zlib.decompressobj().decompress(file.read(count), most + 1)) > most:
                raise VolumeError("a strip or tile unfolds to too many bytes", where=where, expected=f"{most:,}")


def _imagej_distances(file: TiffFile) -> Spacing | None:
    """From ImageJ's description and the resolution of the first page."""
    about: dict[str, Any] = file.imagej_metadata or {}
    tags = file.pages.first.tags
    unit = str(about.get("unit", "")).lower() or {2: "inch", 3: "cm"}.get(
        int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 1, ""
    )
    factor = MILLIMETRES.get(unit)
    if factor is None or "spacing" not in about or "XResolution" not in tags or "YResolution" not in tags:
        return None
    y, x = (tags[name].value for name in ("YResolution", "XResolution"))
    z = abs(float(about["spacing"]))
    if not (z > 0 and min(*y, *x) > 0):
        return None
    return z * factor, y[1] / y[0] * factor, x[1] / x[0] * factor


def _ome_distances(file: TiffFile) -> Spacing | None:
    """From OME-XML's PhysicalSizeZ, Y and X (in micrometres, where no unit is told)."""
    if not file.ome_metadata or len(file.ome_metadata) > 2**24 or "<!DOCTYPE" in file.ome_metadata:
        return None
    try:
        root = ElementTree.fromstring(file.ome_metadata)
    except ElementTree.ParseError:
        return None
    pixels = next((each for each in root.iter() if each.tag.endswith("}Pixels") or each.tag == "Pixels"), None)
    if pixels is None:
        return None
    sizes = []
    for axis in "ZYX":
        factor = MILLIMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").lower())
        try:
            size = float(pixels.get(f"PhysicalSize{axis}", "nan"))
        except ValueError:
            return None
        if factor is None or not (np.isfinite(size) and size > 0):
            return None
        sizes.append(size * factor)
    return sizes[0], sizes[1], sizes[2]


def write(labels: NDArray[np.integer], volume: Volume, target: Path, classes: Sequence[str]) -> None:
    """Write a label map that ImageJ, Fiji and napari open, packed, with the volume's distances."""
    import tifffile

    spacing = volume.grid.spacing
    known: dict[str, Any] = {}
    about: dict[str, Any] = {"axes": "ZYX"}
    if spacing is not None:
        z, y, x = (value * 1000 for value in spacing)
        known = {"resolution": (1 / x, 1 / y)}
        about |= {"spacing": z, "unit": "um"}
    large = labels.nbytes > 2**31
    tifffile.imwrite(
        target,
        (np.ascontiguousarray(plane) for plane in labels),
        shape=labels.shape,
        dtype=labels.dtype,
        imagej=not large,
        bigtiff=large,
        metadata=about,
        photometric="minisblack",
        compression=None if not large else "zlib",
        **known,
    )
