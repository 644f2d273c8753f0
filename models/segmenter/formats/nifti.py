"""NIfTI-1 and NIfTI-2, plain or gzip: headers by nibabel, voxels mapped from disk.

How the axes run is the sform's word, else the qform's. A file with neither says how far its voxels are apart, but not how it
lies.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from models.errors import VolumeError, VolumeGeometryError
from models.segmenter.formats.unpacking import GZIP, Unpacked, map_raw, truncated, unpack
from models.segmenter.grid import Affine, Grid
from models.segmenter.volume import Limits, Volume, check_kind, check_shape

Header = Nifti1Header  # NIfTI-2's is one too
SIZES: dict[int, Any] = {348: Nifti1Header, 540: Nifti2Header}  # bytes of the header, which are its first number
MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # by the header's unit of length: not told, metre, millimetre, micron
DIFFER = 1e-3  # share of a voxel by which sform and qform may differ without a note
FASTEST, SMALLEST = 1, 9  # levels of gzip


def is_nifti(head: bytes) -> bool:
    """Whether a file begins as NIfTI, by its first 348 bytes, unpacked."""
    size = int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")
    return (348 in size and head[344:347] in (b"n+1", b"ni1")) or (540 in size and head[4:7] in (b"n+2", b"ni2"))


def read(path: Path, scratch: Path, limits: Limits, name: str) -> Volume:
    """Open a file; see ``open_volume``."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        stream: Unpacked | BinaryIO = Unpacked(file, name) if packed else file
        header, length = _header(stream, name)
        stored_shape = tuple(int(size) for size in header.get_data_shape())
        dtype = _dtype(header, name)
        shape = check_shape(stored_shape[::-1], dtype.itemsize, limits, name)
        offset = _offset(header, length, name)
        with _nibabel_quiet():
            grid, notes = _grid(header, shape, name)
        slope, intercept = _scaling(header, name)
        if isinstance(stream, Unpacked):
            if len(stream.read(offset - length)) < offset - length:
                raise truncated(name, int(np.prod(shape)) * dtype.itemsize, 0)
            stored = unpack(stream, scratch / "voxels", shape, dtype, name)
        else:
            stored = map_raw(path, offset, shape, dtype, name)
    return Volume(name, "nifti", grid, stored, slope, intercept, notes, header)


def write(labels: NDArray[np.integer], volume: Volume, target: Path, classes: Sequence[str]) -> None:
    """Write a label map on the volume's grid; packed where the name ends in .gz.

    Codes and numbers of sform and qform are those of the volume's header, if it was NIfTI; else both say how it lies, as of a
    scanner.
    """
    header = Nifti1Header() if max(labels.shape) < 2**15 else Nifti2Header()
    header.set_data_shape(labels.shape[::-1])
    header.set_data_dtype(labels.dtype)
    header.set_xyzt_units("mm")
    _place(header, volume)
    header["descrip"] = b"labels by Convoy"
    header["vox_offset"] = offset = 352 if type(header) is Nifti1Header else 544
    header["magic"] = b"n+1" if type(header) is Nifti1Header else header["magic"]
    head = header.binaryblock.ljust(offset, b"\0")
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(target.open("wb"))
        if target.name.endswith(".gz"):
            # No name and no date inside: the same labels are the same bytes.
            file = stack.enter_context(gzip.GzipFile("", "wb", FASTEST, file, mtime=0))
        file.write(head)
        for plane in labels:
            file.write(np.ascontiguousarray(plane).tobytes())


def _place(header: Header, volume: Volume) -> None:
    """Say where the labels lie."""
    if isinstance(volume.source, Nifti1Header):
        for field in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "pixdim", "xyzt_units"):
            header[field] = volume.source[field]
        for field in ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"):
            header[field] = volume.source[field]
    elif volume.grid.affine is not None:
        header.set_qform(volume.grid.affine, code="scanner")
        header.set_sform(volume.grid.affine, code="scanner")
    elif volume.grid.distances is not None:
        header.set_zooms(volume.grid.distances[::-1])


def _header(stream: Unpacked | BinaryIO, name: str) -> tuple[Header, int]:
    """The header, and how many bytes of the stream it took."""
    block = stream.read(348)
    size = next((size for size in SIZES for order in ("little", "big") if int.from_bytes(block[:4], order) == size), 0)
    block += stream.read(size - 348) if size else b""
    if not size or len(block) < size:
        raise VolumeError("not a NIfTI header", where=name, expected="348 or 540 bytes of it", got=f"{len(block)} bytes")
    header: Header = SIZES[size](block, check=False)
    magic = bytes(header["magic"].item())
    if magic[:2] == b"ni":
        fix = "Join both into one file: most tools save as .nii.gz."
        raise VolumeError("header and voxels in two files", where=name, expected="NIfTI in one file (n+1)", got="a pair", fix=fix)
    if magic[:3] not in (b"n+1", b"n+2"):
        raise VolumeError("not a NIfTI header", where=name, expected="the magic word n+1 or n+2", got=magic)
    if not 1 <= int(header["dim"][0]) <= 7:
        raise VolumeError("not a number of axes", where=f"{name}: dim[0]", expected="1 to 7", got=int(header["dim"][0]))
    return header, size


def _dtype(header: Header, name: str) -> np.dtype[Any]:
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        code = int(header["datatype"])
        raise VolumeError("unknown type of voxels", where=f"{name}: datatype", expected="a code of NIfTI's", got=code) from error
    return check_kind(dtype, name)


def _offset(header: Header, length: int, name: str) -> int:
    offset = float(header["vox_offset"])
    if not (np.isfinite(offset) and length <= offset <= 2**31):
        raise VolumeError("no place for voxels", where=f"{name}: vox_offset", expected=f"{length + 4} bytes or more", got=offset)
    return int(offset)


def _scaling(header: Header, name: str) -> tuple[float, float]:
    """Slope and intercept; a slope of 0 means that there is none (NIfTI-1, scl_slope)."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    if not np.isfinite(intercept):
        raise VolumeError("not an intercept", where=f"{name}: scl_inter", expected="a finite number", got=intercept)
    return slope, intercept


def _grid(header: Header, shape: tuple[int, int, int], name: str) -> tuple[Grid, list[str]]:
    factor = MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    sform, qform = (_form(header, kind, factor, name) for kind in ("sform", "qform"))
    if sform is None and qform is None:
        z, y, x = (abs(float(header["pixdim"][number])) * factor for number in (3, 2, 1))
        if not (np.isfinite([z, y, x]).all() and min(z, y, x) > 0):
            return Grid(shape), ["The file does not say how far its voxels are apart, nor how it lies: it was taken as stored."]
        return Grid(shape, distances=(z, y, x)), [
            "The file does not say how it lies (no sform, no qform): it was taken as stored."
        ]
    notes = []
    if sform is not None and qform is not None:
        corner = np.array([*(size - 1 for size in shape[::-1]), 1.0])
        apart = np.abs((sform - qform) @ corner).max() / np.linalg.norm(sform[:3, :3], axis=0).min()
        if apart > max(DIFFER * max(shape), 0.5):
            notes.append(f"The file's sform and qform differ by up to {apart:.1f} voxels: the sform was believed.")
    return Grid(shape, sform if sform is not None else qform), notes


def _form(header: Header, kind: str, factor: float, name: str) -> Affine | None:
    """An affine in mm; None where its code says that there is none."""
    if int(header[f"{kind}_code"]) <= 0:
        return None
    try:
        affine = np.asarray(header.get_sform() if kind == "sform" else header.get_qform(), np.float64)
    except (HeaderDataError, ValueError) as error:
        raise VolumeGeometryError("cannot be read", where=f"{name}: {kind}", got=error) from error
    affine[:3] *= factor
    return affine


@contextlib.contextmanager
def _nibabel_quiet() -> Iterator[None]:
    """Without what nibabel prints of headers that it mends."""
    logger = logging.getLogger("nibabel.global")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        logger.setLevel(level)
