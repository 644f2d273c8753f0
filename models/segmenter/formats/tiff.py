"""TIFF stacks: ImageJ's, OME's and plain ones of many pages, by tifffile. They say nothing of how a volume lies."""

from __future__ import annotations

import logging
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import VolumeError, VolumeShapeError
from models.segmenter.formats.unpacking import map_raw
from models.segmenter.grid import Grid, Spacing
from models.segmenter.volume import Limits, Volume, check_kind, check_shape

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MILLIMETRES = {
    "mm": 1.0, "millimeter": 1.0, "cm": 10.0, "centimeter": 10.0, "m": 1000.0, "inch": 25.4, "in": 25.4,
    "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "\\u00b5m": 1e-3,
    "nm": 1e-6, "nanometer": 1e-6, "pm": 1e-9, "å": 1e-7,
}  # fmt: skip
UNTOLD = "The file does not say how far its voxels are apart."
LARGEST_TILE = 2**28  # bytes that are unpacked together


def read(path: Path, scratch: Path, limits: Limits, name: str) -> Volume:
    """Open a file; see ``open_volume``."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(path) as file:
            return _read(file, path, scratch, limits, name)
    except (VolumeError, VolumeShapeError):
        raise
    except (
        tifffile.TiffFileError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        OSError,
        OverflowError,
        ArithmeticError,
    ) as error:
        fix = "The file is damaged, or of a kind of TIFF that is not read: export it again, uncompressed."
        raise VolumeError("the TIFF cannot be read", where=name, got=error, fix=fix) from error


def _read(file: TiffFile, path: Path, scratch: Path, limits: Limits, name: str) -> Volume:
    series = file.series[0]
    if len(file.series) > 1 and series.ndim < 3:
        got = f"{len(file.series)} pictures of several kinds"
        raise VolumeShapeError("not one stack", where=name, expected="pages of one size and type", got=got)
    if series.axes.endswith("S") and series.shape[-1] > 1:
        raise VolumeShapeError("colours", where=name, expected="one value a voxel", got=f"{series.shape} ({series.axes})")
    if series.dtype is None:
        raise VolumeError("pages without a type", where=name, expected="one type of voxels")
    dtype = check_kind(series.dtype, name)
    shape = check_shape(_shape(series), dtype.itemsize, limits, name)
    # Closing the file does not close the map.
    if series.dataoffset is not None:
        stored = _mapped(series, path, shape, dtype, file.byteorder, name)
    else:
        stored = _unpacked(series, scratch / "voxels", shape, dtype, name)
    distances = _ome_distances(file) or _imagej_distances(file)
    return Volume(name, "tiff", Grid(shape, distances=distances), stored, notes=[] if distances else [UNTOLD], source=None)


def _shape(series: TiffPageSeries) -> tuple[int, ...]:
    shape = tuple(int(size) for size in series.shape)
    return shape[:-1] if series.axes.endswith("S") else shape


def _mapped(
    series: TiffPageSeries, path: Path, shape: tuple[int, int, int], dtype: np.dtype[Any], file_order: str, name: str
) -> NDArray[Any]:
    """The voxels where they lie, in one piece and unpacked."""
    assert series.dataoffset is not None
    order: Literal[">", "<"] = ">" if file_order == ">" else "<"
    return map_raw(path, series.dataoffset, shape, dtype.newbyteorder(order), name)


def _unpacked(series: TiffPageSeries, target: Path, shape: tuple[int, int, int], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Page after page, unpacked onto disk."""
    first = series.keyframe
    if np.prod(first.chunks, dtype=np.float64) * dtype.itemsize > LARGEST_TILE:
        raise VolumeError("a strip or tile is too large", where=name, expected=f"{LARGEST_TILE:,} bytes", got=f"{first.chunks}")
    stored: NDArray[Any] = np.memmap(target, dtype, "w+", shape=shape)
    pages = [page for page in series.pages if page is not None]
    flat = stored.reshape(len(pages), -1) if len(pages) > 1 else stored.reshape(1, -1)
    for number, page in enumerate(pages):
        values = page.asarray()
        if values.size != flat.shape[1]:
            raise VolumeError(
                "a page of another size", where=f"{name}: page {number}", expected=f"{flat.shape[1]}", got=values.size
            )
        flat[number] = values.ravel()
    return stored


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
