"""Zips of a volume, unpacked onto disk: nothing outside the folder, nothing but plain files, never more than was declared."""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from models.errors import VolumeError, VolumeKindError, VolumeTooLargeError
from models.segmenter.formats.unpacking import PIECE, guarded, truncated
from models.segmenter.volume import Limits

MEMBERS = 10_000
DIRECTORY = 512 * MEMBERS  # bytes of the list of members, which zipfile holds
DEEPEST = 32  # folders
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
LITTER = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")
ZARR = (".zattrs", ".zgroup", "zarr.json")
INSIDE = "one volume file, the folder of one DICOM series, or one OME-Zarr"
AGAIN = "Pack the volume again with a common tool."


def unzip(path: Path, scratch: Path, limits: Limits, name: str) -> Path:
    """Unpack a zip.

    Args:
        path: the zip.
        scratch: folder; a folder in it is made for what is unpacked.
        limits: what is accepted; its bytes hold for all members together.
        name: what messages call it.

    Returns:
        The file of a volume, or the folder of a DICOM series or of an OME-Zarr.

    Raises:
        VolumeError: damaged, encrypted, or with members that a zip of a volume does not have.
        VolumeTooLargeError: too many members or bytes, before anything is written.
        VolumeKindError: no volume inside, several of them, or a zip.
    """
    folder = scratch / "members"
    with guarded(name, "the zip cannot be unpacked", AGAIN):
        _check_directory(path, name)
        with zipfile.ZipFile(path) as archive:
            members = _members(archive.infolist(), limits, name)
            folder.mkdir(parents=True, exist_ok=True)
            for inner, info in members.items():
                _extract(archive, info, folder / inner, f"{name}: {inner}")
    return _volume(folder, list(members), name)


def _check_directory(path: Path, name: str) -> None:
    """Refuse too long a list of members before it is read (end of central directory, APPNOTE 4.3.14 and 4.3.16)."""
    with path.open("rb") as file:
        length = file.seek(0, 2)
        start = file.seek(max(0, length - 2**16 - 22))
        tail = file.read()
        place = tail.rfind(b"PK\5\6")
        if place < 0 or len(tail) < place + 22:
            raise truncated(name, 22, len(tail))
        count, size = struct.unpack_from("<HI", tail, place + 10)
        if tail[max(0, place - 20) : place][:4] == b"PK\6\7":
            count, size = _long_directory(file, struct.unpack_from("<Q", tail, place - 12)[0], start + place - 20, name)
    if count > MEMBERS or size > DIRECTORY:
        expected = f"at most {MEMBERS:,} members and {DIRECTORY:,} bytes of their list"
        raise VolumeTooLargeError("too many members", where=name, expected=expected, got=f"{count:,} and {size:,}")


def _long_directory(file: BinaryIO, stated: int, locator: int, name: str) -> tuple[int, int]:
    """How many members, and bytes of their list, a Zip64 states; the larger of the two places that readers look at."""
    found = []
    for place in {min(stated, locator), max(0, locator - 56)}:
        file.seek(place)
        record = file.read(56)
        if record[:4] == b"PK\6\6" and len(record) == 56:
            found.append(struct.unpack_from("<QQ", record, 32))
    if not found:
        raise VolumeError("the zip's list of members is missing", where=name, fix=AGAIN)
    return max(count for count, _ in found), max(size for _, size in found)


def _members(infos: Sequence[zipfile.ZipInfo], limits: Limits, name: str) -> dict[str, zipfile.ZipInfo]:
    """Files to unpack, by their path within the zip; all that is not to be is refused, from the list alone."""
    if len(infos) > MEMBERS:
        expected = f"at most {MEMBERS:,}"
        raise VolumeTooLargeError("too many members", where=name, expected=expected, got=f"{len(infos):,}")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        inner = _path(info, name)
        if info.is_dir() or any(part in LITTER or part.startswith("._") for part in inner.parts):
            continue
        _check_member(info, name)
        if str(inner) in members:
            raise VolumeError("two members of one name", where=f"{name}: {inner}", fix=AGAIN)
        members[str(inner)] = info
    size = sum(info.file_size for info in members.values())
    if size > limits.bytes:
        expected = f"at most {limits.bytes:,} bytes unpacked"
        raise VolumeTooLargeError("too large", where=name, expected=expected, got=f"{size:,} bytes")
    return members


def _path(info: zipfile.ZipInfo, name: str) -> PurePosixPath:
    """A member's path, which stays within the folder."""
    inner = info.filename.replace("\\", "/")
    path = PurePosixPath(inner)
    outside = path.is_absolute() or ".." in path.parts or ":" in inner or not path.parts
    if outside or len(path.parts) > DEEPEST or any(len(part.encode()) > 255 for part in path.parts):
        expected = f"a path within the zip, at most {DEEPEST} folders deep"
        raise VolumeError("a member that would lie elsewhere", where=name, expected=expected, got=info.filename, fix=AGAIN)
    if not inner.isprintable():
        raise VolumeError("a name that cannot be printed", where=name, got=info.filename, fix=AGAIN)
    return path


def _check_member(info: zipfile.ZipInfo, name: str) -> None:
    where = f"{name}: {info.filename}"
    if info.flag_bits & 0x41:
        raise VolumeError("encrypted", where=where, fix="Pack it again without a password.")
    mode = info.external_attr >> 16
    if info.create_system == 3 and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise VolumeError("a link or a device", where=where, expected="plain files and folders", fix=AGAIN)
    if info.compress_type not in METHODS:
        expected, got = "stored or deflated members", f"method {info.compress_type}"
        raise VolumeError("packed in a way that is not read", where=where, expected=expected, got=got, fix=AGAIN)
    if info.filename.lower().endswith(".zip"):
        raise VolumeKindError("a zip in a zip", where=where, expected=INSIDE)


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, where: str) -> None:
    """One member, at most as many bytes as its list declares."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(info) as packed, target.open("xb") as file:
        while piece := packed.read(PIECE):
            written += len(piece)
            if written > info.file_size:
                raise VolumeError(
                    "a member holds more than it declares", where=where, expected=f"{info.file_size:,} bytes", fix=AGAIN
                )
            file.write(piece)
    if written < info.file_size:
        raise truncated(where, info.file_size, written)


def _volume(folder: Path, members: Sequence[str], name: str) -> Path:
    """The one volume among what was unpacked."""
    images = _images(folder, members)
    if images:
        return _one(images, name)
    kinds = {member: kind for member in members if (kind := _kind(folder / member, f"{name}: {member}"))}
    if zips := [member for member, kind in kinds.items() if kind == "zip"]:
        raise VolumeKindError("a zip in a zip", where=f"{name}: {zips[0]}", expected=INSIDE)
    series = {folder / member for member, kind in kinds.items() if kind == "dicom" and PurePosixPath(member).name != "DICOMDIR"}
    others = {folder / member for member, kind in kinds.items() if kind != "dicom"}
    found = sorted({each.parent for each in series} | others)
    if not found:
        got = f"{len(members)} other files ({', '.join(members[:5])})" if members else "an empty zip"
        raise VolumeKindError("no volume inside", where=name, expected=INSIDE, got=got)
    return _one(found, name, folder)


def _one(found: Sequence[Path], name: str, root: Path | None = None) -> Path:
    if len(found) > 1:
        names = [str(each.relative_to(root)) if root else each.name for each in found]
        raise VolumeKindError("several volumes inside", where=name, expected=INSIDE, got=", ".join(names), fix="Send each alone.")
    return found[0]


def _images(folder: Path, members: Sequence[str]) -> list[Path]:
    """Topmost folders that are Zarr groups."""
    groups = sorted({PurePosixPath(member).parent for member in members if PurePosixPath(member).name in ZARR})
    top: list[PurePosixPath] = []
    for group in groups:
        if not any(each == group or each in group.parents for each in top):
            top.append(group)
    return [folder / group for group in top]


def _kind(path: Path, name: str) -> str:
    """What a file is, as ``kind_of`` says; empty where it is no volume."""
    from models.segmenter.formats.reading import kind_of

    try:
        return kind_of(path, name)
    except VolumeKindError:
        return ""
