"""Opens a volume, of whatever kind its bytes say it is."""

from __future__ import annotations

import errno
import importlib
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

from models.errors import VolumeError, VolumeKindError
from models.segmenter.formats.unpacking import GZIP, Unpacked
from models.segmenter.volume import Limits, Volume

KINDS = "NIfTI (.nii, .nii.gz), NRRD, MHA, TIFF, a DICOM series (folder or zip), OME-Zarr (folder or zip)"
HEAD = 348  # bytes that tell; NIfTI's magic word stands at their end
REFUSED = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


def open_volume(path: Path, scratch: Path, *, limits: Limits | None = None, name: str = "") -> Volume:
    """Open a volume, having looked at its header only; what is packed is unpacked onto disk.

    Args:
        path: NIfTI, NRRD, MHA, TIFF, a folder or zip of a DICOM series or an OME-Zarr; told by content, not by name.
        scratch: folder for unpacked voxels, which are mapped from there; any number of volumes may share it.
        limits: what is accepted.
        name: what messages call it; by default its name.

    Raises:
        VolumeKindError: none of these.
        VolumeError: damaged; VolumeTruncatedError: ends early.
        VolumeShapeError: not three axes.
        VolumeTooLargeError: over a limit.
        VolumeGeometryError: a grid that cannot be trusted.
        OSError: the disk is full or broken.
    """
    name = name or path.name
    own = Path(tempfile.mkdtemp(prefix="volume-", dir=scratch))
    try:
        return _open(path, own, limits or Limits(), name)
    except BaseException as error:
        shutil.rmtree(own, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in REFUSED:
            raise VolumeError("cannot be read", where=name, got=error.strerror, fix="Check path and permissions.") from error
        raise


def _open(path: Path, scratch: Path, limits: Limits, name: str) -> Volume:
    if not path.exists():
        raise VolumeError("no such file or folder", where=name, fix="Check the spelling.")
    if path.is_dir():
        module = "ome_zarr" if is_zarr(path) else "dicom"
        return cast(Volume, _module(module).read_folder(path, scratch, limits, name))
    if not path.is_file():
        raise VolumeError("neither a file nor a folder", where=name, fix="Copy it to a file first.")
    kind = kind_of(path, name)
    if kind == "zip":
        inner = _module("archives").unzip(path, scratch, limits, name)
        if inner.is_file() and kind_of(inner, name) == "zip":
            raise VolumeKindError("a zip in a zip", where=name, expected=KINDS)
        return open_volume(inner, scratch, limits=limits, name=name)
    if kind == "dicom":
        return cast(Volume, _module(kind).read_file(path, scratch, limits, name))
    return cast(Volume, _module(kind).read(path, scratch, limits, name))


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a Zarr group."""
    return any((folder / each).is_file() for each in (".zattrs", ".zgroup", "zarr.json"))


def is_series(folder: Path) -> bool:
    """Whether a folder holds DICOM files itself."""
    return any(is_dicom(each) for each in folder.iterdir() if each.is_file())


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def kind_of(path: Path, name: str) -> str:
    """What a file's first bytes say it is: nifti, nrrd, metaimage, tiff, dicom or zip."""
    from models.segmenter.formats.nifti import is_nifti

    with path.open("rb") as file:
        head = file.read(HEAD)
        if head[:2] == GZIP:
            file.seek(0)
            inner = Unpacked(file, name).read(HEAD)
            if is_nifti(inner):
                return "nifti"
            raise VolumeKindError("packed, and not NIfTI inside", where=name, expected=KINDS, got=inner[:16])
    if is_nifti(head):
        return "nifti"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head[:4] == b"NRRD":
        return "nrrd"
    if head[:4] == b"PK\3\4":
        return "zip"
    if head[128:132] == b"DICM":
        return "dicom"
    if b"ObjectType" in head or b"NDims" in head:
        return "metaimage"
    raise VolumeKindError("not a volume", where=name, expected=KINDS, got=f"a file that begins with {head[:16]!r}")


def _module(kind: str) -> Any:
    return importlib.import_module(f"models.segmenter.formats.{kind}")
