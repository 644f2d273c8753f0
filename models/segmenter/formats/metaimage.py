"""MetaImage: .mha in one file, .mhd with its voxels beside it; raw or zlib.

Directions and positions are LPS. A file without TransformMatrix says how far its voxels are apart, but not how it lies.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from models.errors import VolumeError, VolumeShapeError
from models.segmenter.formats.unpacking import Unpacked, map_raw, unpack
from models.segmenter.grid import LPS_TO_RAS, Grid, Spacing
from models.segmenter.volume import Limits, Volume, check_kind, check_shape

LONGEST = 2**16  # bytes of a header
TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
NAMES = {"u1": "MET_UCHAR", "u2": "MET_USHORT"}
UNTURNED = "The file does not say how it lies (no TransformMatrix): it was taken as stored."
UNTOLD = "The file does not say how far its voxels are apart, nor how it lies: it was taken as stored."
DIGITS = 20  # of CompressedDataSize, which is known last


@dataclass(frozen=True)
class Header:
    """A header's fields by lower-case name, and how many bytes of the file it took."""

    fields: dict[str, str]
    length: int
    name: str

    def first(self, *keys: str) -> str | None:
        """The first of some fields that is there."""
        return next((self.fields[key.lower()] for key in keys if key.lower() in self.fields), None)

    def flag(self, *keys: str) -> bool:
        """Whether a field says True."""
        return (self.first(*keys) or "").lower() in ("true", "1")

    def numbers(self, count: int, *keys: str) -> list[float] | None:
        """As many finite numbers as are expected; None where no such field is there."""
        text = self.first(*keys)
        if text is None:
            return None
        try:
            values = [float(word) for word in text.split()]
        except ValueError:
            values = []
        if len(values) != count or not np.isfinite(values).all():
            raise VolumeError("not numbers", where=f"{self.name}: {keys[0]}", expected=f"{count} of them", got=text)
        return values


def read(path: Path, scratch: Path, limits: Limits, name: str) -> Volume:
    """Open a file; see ``open_volume``."""
    with path.open("rb") as file:
        header = _header(file, name)
    axes = _axes(header)
    shape, dtype = _shape(header, axes, limits), _dtype(header)
    grid, notes = _grid(header, axes, shape)
    holder, offset = _holder(path, header, int(np.prod(shape)) * dtype.itemsize)
    if header.flag("CompressedData"):
        with holder.open("rb") as file:
            file.seek(offset)
            stored = unpack(Unpacked(file, name), scratch / "voxels", shape, dtype, name)
    else:
        stored = map_raw(holder, offset, shape, dtype, name)
    return Volume(name, "mha", grid, stored, notes=notes)


def write(labels: NDArray[np.integer], volume: Volume, target: Path, classes: Sequence[str]) -> None:
    """Write a label map as .mha, packed.

    Args:
        labels: (z, y, x), uint8 or uint16.
        volume: whose grid it lies on.
        target: file to make.
        classes: not told by this kind of file.
    """
    dtype = labels.dtype.newbyteorder("<")
    engine, length = zlib.compressobj(1), 0
    with target.open("wb") as file:
        lines = [
            "ObjectType = Image",
            "NDims = 3",
            "BinaryData = True",
            "BinaryDataByteOrderMSB = False",
            "CompressedData = True",
        ]
        file.write("".join(f"{line}\n" for line in lines).encode())
        place = file.tell() + len("CompressedDataSize = ")
        lines = [f"CompressedDataSize = {0:0{DIGITS}d}", *_place(volume.grid)]
        lines.append(f"DimSize = {_words(labels.shape[::-1])}")
        lines += [f"ElementType = {NAMES[dtype.str[1:]]}", "ElementDataFile = LOCAL"]
        file.write("".join(f"{line}\n" for line in lines).encode())
        for plane in labels:
            length += file.write(engine.compress(np.ascontiguousarray(plane, dtype).tobytes()))
        length += file.write(engine.flush())
        file.seek(place)
        file.write(f"{length:0{DIGITS}d}".encode())


def _place(grid: Grid) -> list[str]:
    """The lines that say where the labels lie."""
    if grid.spacing is None:
        return []
    spacing = f"ElementSpacing = {_words(grid.spacing[::-1])}"
    if grid.affine is None:
        return [spacing]
    affine = LPS_TO_RAS @ grid.affine
    directions = affine[:3, :3] / np.array(grid.spacing[::-1])
    matrix = _words(directions.T.ravel().tolist())  # axis after axis
    return [f"TransformMatrix = {matrix}", f"Offset = {_words(affine[:3, 3].tolist())}", spacing]


def _words(values: Sequence[float]) -> str:
    return " ".join(repr(value) for value in values)


def _header(file: BinaryIO, name: str) -> Header:
    """Lines of ``key = value`` up to ElementDataFile."""
    fields: dict[str, str] = {}
    while line := file.readline(LONGEST):
        if file.tell() > LONGEST or b"=" not in line:
            break
        key, _, value = line.decode("latin-1").partition("=")
        fields[key.strip().lower()] = value.strip()
        if key.strip().lower() == "elementdatafile":
            return Header(fields, file.tell(), name)
    got = ", ".join(fields) or "no line of it"
    raise VolumeError("not a MetaImage header", where=name, expected="lines 'key = value' up to ElementDataFile", got=got)


def _axes(header: Header) -> int:
    text = header.first("NDims") or ""
    if text not in {str(number) for number in range(1, 9)}:
        raise VolumeError("not a number of axes", where=f"{header.name}: NDims", expected="1 to 8", got=text or "nothing")
    return int(text)


def _shape(header: Header, axes: int, limits: Limits) -> tuple[int, int, int]:
    channels = header.numbers(1, "ElementNumberOfChannels") or [1.0]
    if channels != [1.0]:
        fix = "Save each channel as a volume of its own."
        where = f"{header.name}: ElementNumberOfChannels"
        raise VolumeShapeError("several values in a voxel", where=where, expected="1", got=channels[0], fix=fix)
    sizes = header.numbers(axes, "DimSize")
    if sizes is None or any(size != int(size) or abs(size) > 2**40 for size in sizes):
        got = header.first("DimSize")
        raise VolumeError("not sizes", where=f"{header.name}: DimSize", expected=f"{axes} whole numbers", got=got)
    return check_shape(tuple(int(size) for size in sizes[::-1]), _dtype(header).itemsize, limits, header.name)


def _dtype(header: Header) -> np.dtype[Any]:
    word = header.first("ElementType") or "nothing"
    if word not in TYPES:
        where = f"{header.name}: ElementType"
        raise VolumeError("unknown type of voxels", where=where, expected=", ".join(TYPES), got=word)
    if (header.first("BinaryData") or "True").lower() not in ("true", "1"):
        fix = "Save it with binary voxels."
        raise VolumeError("voxels as text", where=f"{header.name}: BinaryData", expected="True", got="False", fix=fix)
    order = ">" if header.flag("BinaryDataByteOrderMSB", "ElementByteOrderMSB") else "<"
    return check_kind(np.dtype(order + TYPES[word]), header.name)


def _grid(header: Header, axes: int, shape: tuple[int, int, int]) -> tuple[Grid, list[str]]:
    spacing = header.numbers(axes, "ElementSpacing", "ElementSize")
    matrix = header.numbers(axes * axes, "TransformMatrix", "Rotation", "Orientation")
    origin = header.numbers(axes, "Offset", "Position", "Origin") or [0.0] * axes
    if spacing is None:
        return Grid(shape), [UNTOLD]
    if matrix is None:
        z, y, x = (abs(value) for value in spacing[2::-1])
        distances: Spacing = (z, y, x)
        return Grid(shape, distances=distances), [UNTURNED]
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(matrix, (axes, axes))[:3, :3].T * spacing[:3]
    affine[:3, 3] = origin[:3]
    return Grid(shape, LPS_TO_RAS @ affine), []


def _holder(path: Path, header: Header, needed: int) -> tuple[Path, int]:
    """The file that holds the voxels, and where in it they begin."""
    word, where = header.first("ElementDataFile") or "", f"{header.name}: ElementDataFile"
    if word.upper() in ("LOCAL", ""):
        return path, header.length
    if word.upper().startswith("LIST") or "%" in word:
        fix = "Join them into one .mha."
        raise VolumeError("voxels in several files", where=where, expected="LOCAL or one file", got=word, fix=fix)
    holder = beside(path, word, where)
    text = header.first("HeaderSize") or "0"
    if text == "-1" and not header.flag("CompressedData"):
        return holder, max(0, holder.stat().st_size - needed)
    if not text.isascii() or not text.isdigit() or len(text) > DIGITS:
        raise VolumeError("not a length", where=f"{header.name}: HeaderSize", expected="0 bytes or more, or -1", got=text)
    return holder, int(text)


def beside(path: Path, word: str, where: str) -> Path:
    """A plain file in the header's own folder; a header must not lead anywhere else.

    Raises:
        VolumeError: it leads elsewhere, or there is no such file.
    """
    elsewhere = not word.isprintable() or any(mark in word for mark in "/\\:") or word in (".", "..") or len(word) > 200
    holder = path if elsewhere else path.with_name(word)
    if elsewhere or holder.is_symlink() or not holder.is_file():
        fix = "Put the file of voxels beside its header, or save both as one file."
        expected = "the name of a plain file in the header's folder"
        raise VolumeError("no such file of voxels", where=where, expected=expected, got=word, fix=fix)
    return holder
