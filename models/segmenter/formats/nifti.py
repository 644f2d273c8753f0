"""NIfTI-1 and NIfTI-2, plain or gzip: headers by nibabel, voxels mapped from disk.

How the axes run is the sform's word, else the qform's. A file with neither says how far its voxels are apart, but not how it
lies.
"""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from models.errors import VolumeError
from models.segmenter.formats.unpacking import GZIP, Unpacked, map_raw, truncated, unpack
from models.segmenter.grid import Affine, Grid, grid_of
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
        dtype = _dtype(header, name)
        shape = check_shape(_sizes(header, name), dtype.itemsize, limits, name)
        offset = _offset(header, length, name)
        grid, notes = _grid(header, shape, name)
        slope, intercept = _scaling(header, name)
        if isinstance(stream, Unpacked):
            if not stream.skip(offset - length):
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
    header["vox_offset"] = offset = header.single_vox_offset
    head = header.binaryblock.ljust(offset, b"\0")
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(target.open("wb"))
        if target.name.endswith(".gz"):
            # No name and no date inside: the same labels are the same bytes.
            file = stack.enter_context(gzip.GzipFile("", "wb", FASTEST, file, mtime=0))
        file.write(head)
        for plane in labels:
            file.write(np.ascontiguousarray(plane, header.get_data_dtype()).tobytes())


def _place(header: Header, volume: Volume) -> None:
    """Say where the labels lie."""
    if isinstance(volume.source, Nifti1Header) and volume.grid.affine is not None:
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
    order = "<" if int.from_bytes(block[:4], "little") == size else ">"
    header: Header = SIZES[size](block, order, check=False)
    magic = bytes(header["magic"].item())
    if magic[:2] == b"ni":
        fix = "Join both into one file: most tools save as .nii.gz."
        raise VolumeError("header and voxels in two files", where=name, expected="NIfTI in one file (n+1)", got="a pair", fix=fix)
    if magic[:3] not in (b"n+1", b"n+2"):
        raise VolumeError("not a NIfTI header", where=name, expected="the magic word n+1 or n+2", got=magic)
    return header, size


def _sizes(header: Header, name: str) -> tuple[int, ...]:
    """Of the axes, the slowest first."""
    # nibabel's get_data_shape takes some sizes for FreeSurfer's surfaces, which are no volumes.
    count, *sizes = (int(size) for size in header["dim"])
    if not 1 <= count <= 7:
        raise VolumeError("not a number of axes", where=f"{name}: dim[0]", expected="1 to 7", got=count)
    return tuple(sizes[:count][::-1])


def _dtype(header: Header, name: str) -> np.dtype[Any]:
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        code = int(header["datatype"])
        raise VolumeError("unknown type of voxels", where=f"{name}: datatype", expected="a code of NIfTI's", got=code) from error
    return check_kind(dtype, name)


def _offset(header: Header, length: int, name: str) -> int:
    offset = float(header["vox_offset"])
    if offset == 0:  # as SPM and others leave it
        return int(header.single_vox_offset)
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
    sform, qform = _sform(header, factor), _qform(header, factor)
    affine = sform if sform is not None else qform
    if affine is None:
        z, y, x = (abs(float(header["pixdim"][number])) * factor for number in (3, 2, 1))
        if not (np.isfinite([z, y, x]).all() and min(z, y, x) > 0):
            return Grid(shape), ["The file does not say how far its voxels are apart, nor how it lies: it was taken as stored."]
        note = "The file does not say how it lies (no sform, no qform): it was taken as stored."
        return grid_of(shape, name, distances=(z, y, x)), [note]
    grid = grid_of(shape, f"{name}: {'qform' if sform is None else 'sform'}", affine=affine)
    notes = [] if sform is None or qform is None else _differing(sform, qform, shape)
    return grid, notes


def _differing(sform: Affine, qform: Affine, shape: tuple[int, int, int]) -> list[str]:
    """A note where both say that the volume lies elsewhere."""
    with np.errstate(all="ignore"):
        corners = np.array([[0.0, 0.0, 0.0, 1.0], [*(size - 1.0 for size in shape[::-1]), 1.0]]).T
        apart = float(np.abs((sform - qform) @ corners).max() / np.linalg.norm(sform[:3, :3], axis=0).min())
    if apart <= max(DIFFER * max(shape), 0.5):
        return []
    far = f"by up to {apart:.1f} voxels" if np.isfinite(apart) else "beyond measure"
    return [f"The file's sform and qform differ {far}: the sform was believed."]


def _sform(header: Header, factor: float) -> Affine | None:
    """In mm; None where its code says that there is none."""
    if int(header["sform_code"]) <= 0:
        return None
    return _scaled(header.get_sform(), factor)


def _qform(header: Header, factor: float) -> Affine | None:
    """In mm, not numbers where it is damaged; None where its code says that there is none."""
    if int(header["qform_code"]) <= 0:
        return None
    mended = header.copy()
    if mended["pixdim"][0] not in (-1, 1):
        mended["pixdim"][0] = 1  # as the standard says of 0
    mended["pixdim"][1:4] = np.abs(mended["pixdim"][1:4])
    try:
        with np.errstate(all="ignore"):
            return _scaled(mended.get_qform(), factor)
    except (HeaderDataError, ValueError, ArithmeticError):  # no quaternion
        return np.full((4, 4), np.nan)


def _scaled(affine: Affine, factor: float) -> Affine:
    scaled = np.array(affine, np.float64)
    with np.errstate(all="ignore"):
        scaled[:3] *= factor
    return scaled
