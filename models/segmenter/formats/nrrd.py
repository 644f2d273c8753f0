"""NRRD: .nrrd in one file, .nhdr with its voxels beside it; raw or gzip (https://teem.sourceforge.net/nrrd/format.html)."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from models.errors import VolumeError, VolumeShapeError
from models.segmenter.formats.metaimage import beside
from models.segmenter.formats.unpacking import Unpacked, map_raw, truncated, unpack
from models.segmenter.grid import LPS_TO_RAS, Affine, Grid
from models.segmenter.volume import Limits, Volume, check_kind, check_shape

LONGEST = 2**16  # bytes of a header
TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
# To RAS.
SPACES: dict[str, Affine] = {
    "right-anterior-superior": np.eye(4), "ras": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]), "las": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "left-posterior-superior": LPS_TO_RAS, "lps": LPS_TO_RAS,
}  # fmt: skip
MILLIMETRES = {"mm": 1.0, "millimeter": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "nm": 1e-6}
UNTURNED = "The file does not say how it lies (no space): it was taken as stored."
UNTOLD = "The file does not say how far its voxels are apart, nor how it lies: it was taken as stored."
ALIASES = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}


@dataclass(frozen=True)
class Header:
    """A header's fields by lower-case name, and how many bytes of the file it took."""

    fields: dict[str, str]
    length: int
    name: str

    def get(self, key: str) -> str | None:
        return self.fields.get(key)

    def whole(self, key: str, default: int | None, lowest: int, highest: int) -> int:
        """A whole number within bounds."""
        text = self.get(key)
        if text is None and default is not None:
            return default
        if text is None or not re.fullmatch(r"-?[0-9]{1,12}", text) or not lowest <= int(text) <= highest:
            where, expected = f"{self.name}: {key}", f"a whole number from {lowest} to {highest:,}"
            raise VolumeError("not such a number", where=where, expected=expected, got="nothing" if text is None else text)
        return int(text)


def read(path: Path, scratch: Path, limits: Limits, name: str) -> Volume:
    """Open a file; see ``open_volume``."""
    with path.open("rb") as file:
        header = _header(file, name)
    encoding, dtype = _encoding(header), _dtype(header)
    sizes = _sizes(header)
    kept = _kept(header, sizes)
    shape = check_shape(tuple(sizes[axis] for axis in reversed(kept)), dtype.itemsize, limits, name)
    grid, notes = _grid(header, kept, len(sizes), shape)
    holder, offset = _holder(path, header)
    needed, skip = (
        int(np.prod(shape)) * dtype.itemsize,
        header.whole("byte skip", 0, *((-1, 2**40) if encoding == "raw" else (0, LONGEST))),
    )
    if encoding == "raw":
        offset = max(offset, holder.stat().st_size - needed) if skip == -1 else offset + skip
        return Volume(name, "nrrd", grid, map_raw(holder, offset, shape, dtype, name), notes=notes)
    with holder.open("rb") as file:
        file.seek(offset)
        stream = Unpacked(file, name)
        if len(stream.read(skip)) < skip:
            raise truncated(name, needed, 0)
        stored = unpack(stream, scratch / "voxels", shape, dtype, name)
    return Volume(name, "nrrd", grid, stored, notes=notes)


def write(labels: NDArray[np.integer], volume: Volume, target: Path, classes: Sequence[str]) -> None:
    """Write a label map, packed, in LPS as ITK and Slicer do; names of classes as Slicer reads them.

    Args:
        labels: (z, y, x), uint8 or uint16.
        volume: whose grid it lies on.
        target: file to make.
        classes: names by label, kept as key and value pairs.
    """
    dtype = labels.dtype.newbyteorder("<")
    lines = ["NRRD0004", "# labels by Convoy", f"type: {'uint8' if dtype.itemsize == 1 else 'uint16'}", "dimension: 3"]
    lines += [f"sizes: {' '.join(str(size) for size in labels.shape[::-1])}", *_place(volume.grid)]
    lines += ["endian: little"] * (dtype.itemsize > 1) + ["encoding: gzip"]
    lines += [f"label {number}:={_escaped(label)}" for number, label in enumerate(classes)]
    with target.open("wb") as file:
        file.write(("\n".join(lines) + "\n\n").encode())
        # No name and no date inside: the same labels are the same bytes.
        with gzip.GzipFile("", "wb", 1, file, mtime=0) as packed:
            for plane in labels:
                packed.write(np.ascontiguousarray(plane, dtype).tobytes())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", " ")


def _place(grid: Grid) -> list[str]:
    """The lines that say where the labels lie."""
    if grid.affine is None:
        return [] if grid.distances is None else [f"spacings: {' '.join(repr(value) for value in grid.distances[::-1])}"]
    affine = LPS_TO_RAS @ grid.affine
    columns = " ".join(_vector(affine[:3, axis]) for axis in range(3))
    lines = ["space: left-posterior-superior", f"space directions: {columns}", "kinds: domain domain domain"]
    return [*lines, f"space origin: {_vector(affine[:3, 3])}"]


def _vector(values: NDArray[np.float64]) -> str:
    return f"({','.join(repr(value) for value in values.tolist())})"


def _header(file: BinaryIO, name: str) -> Header:
    """Lines up to an empty one; of a header alone, up to its end."""
    magic = file.readline(LONGEST)
    if not re.fullmatch(rb"NRRD000[1-5]\r?\n", magic):
        raise VolumeError("not a NRRD header", where=name, expected="NRRD0001 to NRRD0005", got=magic[:16])
    fields: dict[str, str] = {}
    while line := file.readline(LONGEST):
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if file.tell() > LONGEST:
            raise VolumeError("the header does not end", where=name, expected=f"an empty line within {LONGEST:,} bytes")
        if not text:
            break
        if text.startswith("#") or ":=" in text:
            continue
        key, colon, value = text.partition(":")
        if not colon:
            raise VolumeError("not a line of a NRRD header", where=name, expected="'field: value'", got=text)
        key = key.strip().lower()
        fields[ALIASES.get(key, key)] = value.strip()
    return Header(fields, file.tell(), name)


def _encoding(header: Header) -> str:
    word = (header.get("encoding") or "nothing").lower()
    encoding = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}.get(word)
    if encoding is None:
        fix = "Save it again, raw or gzip."
        raise VolumeError(
            "an encoding that is not read", where=f"{header.name}: encoding", expected="raw or gzip", got=word, fix=fix
        )
    header.whole("line skip", 0, 0, 0)
    return encoding


def _dtype(header: Header) -> np.dtype[Any]:
    word = " ".join((header.get("type") or "nothing").lower().split())
    code = next((code for code, words in TYPES.items() if word in words), None)
    if code is None:
        raise VolumeError("unknown type of voxels", where=f"{header.name}: type", expected="a number type of NRRD's", got=word)
    order = (header.get("endian") or "").lower()
    if order not in ("little", "big") and code[1] != "1":
        raise VolumeError(
            "unknown order of bytes", where=f"{header.name}: endian", expected="little or big", got=order or "nothing"
        )
    return check_kind(np.dtype((">" if order == "big" else "<") + code), header.name)


def _sizes(header: Header) -> list[int]:
    """Fastest axis first."""
    count = header.whole("dimension", None, 1, 16)
    words = (header.get("sizes") or "").split()
    if len(words) != count or not all(re.fullmatch("[0-9]{1,12}", word) for word in words):
        got = header.get("sizes")
        raise VolumeError("not sizes", where=f"{header.name}: sizes", expected=f"{count} whole numbers", got=got)
    return [int(word) for word in words]


def _kept(header: Header, sizes: list[int]) -> list[int]:
    """The three axes of space; axes of length one beside them are dropped."""
    words = _directions(header)
    alone = [axis for axis, size in enumerate(sizes) if size == 1 and words and axis < len(words) and words[axis] is None]
    kept = [axis for axis in range(len(sizes)) if axis not in alone]
    while len(kept) > 3 and sizes[kept[-1]] == 1:
        kept.pop()
    while len(kept) > 3 and sizes[kept[0]] == 1:
        kept.pop(0)
    if len(kept) > 3:
        fix = "Send one volume; of a series over time or of several channels, each alone."
        raise VolumeShapeError("not a volume", where=header.name, expected="three axes", got=tuple(sizes), fix=fix)
    return kept


def _directions(header: Header) -> list[list[float] | None]:
    """A vector for each axis, or None; an empty list where the field is not there."""
    text = header.get("space directions")
    if text is None:
        return []
    return [_numbers(word, f"{header.name}: space directions") for word in re.findall(r"\([^()]*\)|[^\s()]+", text)]


def _numbers(word: str, where: str) -> list[float] | None:
    """Of '(1,0,0)'; None for 'none'."""
    if word.lower() in ("none", "nan"):
        return None
    try:
        values = [float(part) for part in word.strip().strip("()").split(",")]
    except ValueError as error:
        raise VolumeError("not a vector", where=where, expected="(x,y,z)", got=word) from error
    if not np.isfinite(values).all():
        return None
    return values


def _grid(header: Header, kept: list[int], axes: int, shape: tuple[int, int, int]) -> tuple[Grid, list[str]]:
    words = _directions(header)
    if words and len(words) != axes:
        where = f"{header.name}: space directions"
        raise VolumeError("not as many directions as axes", where=where, expected=f"{axes}", got=len(words))
    vectors = [vector for axis in kept if words and (vector := words[axis]) is not None and len(vector) == 3]
    if len(vectors) < 3:
        return _apart(header, kept, axes, shape)
    columns = np.array(vectors).T * _factor(header)
    to_ras = SPACES.get((header.get("space") or "").lower())
    if to_ras is None:
        x, y, z = np.linalg.norm(columns, axis=0).tolist()
        return Grid(shape, distances=(z, y, x)), [UNTURNED]
    affine = np.eye(4)
    affine[:3, :3] = columns
    origin = _numbers(header.get("space origin") or "(0,0,0)", f"{header.name}: space origin")
    if origin is None or len(origin) != 3:
        got = header.get("space origin")
        raise VolumeError("not a position", where=f"{header.name}: space origin", expected="(x,y,z)", got=got)
    affine[:3, 3] = np.array(origin) * _factor(header)
    return Grid(shape, to_ras @ affine), []


def _apart(header: Header, kept: list[int], axes: int, shape: tuple[int, int, int]) -> tuple[Grid, list[str]]:
    """A grid that is known by its distances only, if at all."""
    words = (header.get("spacings") or "").split()
    try:
        values = [float(words[axis]) for axis in kept] if len(words) == axes else []
    except ValueError as error:
        got = header.get("spacings")
        raise VolumeError("not distances", where=f"{header.name}: spacings", expected=f"{axes} numbers", got=got) from error
    if len(values) != 3 or not np.isfinite(values).all():
        return Grid(shape), [UNTOLD]
    x, y, z = (abs(value) for value in values)
    return Grid(shape, distances=(z, y, x)), [UNTURNED]


def _factor(header: Header) -> float:
    """Millimetres in the unit of space; millimetres where none, or an unknown one, is told."""
    units = re.findall(r'"([^"]*)"', header.get("space units") or "")
    return MILLIMETRES.get(units[0].lower(), 1.0) if units and len(set(units)) == 1 else 1.0


def _holder(path: Path, header: Header) -> tuple[Path, int]:
    """The file that holds the voxels, and where in it they begin."""
    word, where = header.get("data file"), f"{header.name}: data file"
    if word is None:
        return path, header.length
    if word.upper().startswith("LIST") or "%" in word:
        fix = "Join them into one .nrrd."
        raise VolumeError("voxels in several files", where=where, expected="one file", got=word, fix=fix)
    return beside(path, word, where), 0
