"""DICOM series, by pydicom: one volume of many files with a plane each, or of one file with many frames.

Where a plane lies is ImagePositionPatient and ImageOrientationPatient (LPS, PS3.3 C.7.6.2); planes are put in order along their
normal, and a series with planes missing, doubled or at uneven distances is refused.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import VolumeError, VolumeGeometryError, VolumeShapeError
from models.segmenter.formats.unpacking import guarded, truncated
from models.segmenter.grid import LPS_TO_RAS, SHEAR, Grid
from models.segmenter.volume import Limits, Volume, check_shape

MAGIC = b"DICM"  # after 128 bytes
UNEVEN = 0.05  # share of the usual distance by which one between two planes may differ
ROUNDED = 0.011  # mm by which it may differ in any case: positions are written with few digits
DEFLATED = "1.2.840.10008.1.2.1.99"
TAGS: list[Any] = [
    "SOPClassUID", "SeriesInstanceUID", "SeriesDescription", "Modality", "Rows", "Columns", "BitsAllocated", "SamplesPerPixel",
    "PixelRepresentation", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope",
    "RescaleIntercept", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """What the planes of one file have in common."""

    path: Path
    series: str
    about: str
    syntax: str
    rows: int
    columns: int
    dtype: np.dtype[Any]
    frames: int


@dataclass(frozen=True)
class Plane:
    """One plane of a series.

    Attributes:
        picture: the file that holds it.
        frame: its number in that file, from 0.
        position: of its first pixel's centre, mm (x, y, z) in LPS.
        orientation: (2, 3), unit vectors along a row and along a column.
        spacing: mm between rows and between columns.
    """

    picture: Picture
    frame: int
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: NDArray[np.float64]
    slope: float
    intercept: float

    @property
    def label(self) -> str:
        """What messages call it."""
        name = self.picture.path.name
        return f"{name} frame {self.frame + 1}" if self.picture.frames > 1 else name


def read_folder(folder: Path, scratch: Path, limits: Limits, name: str) -> Volume:
    """Open the one series in a folder; files that are no pictures are passed over. See ``open_volume``."""
    return _read(sorted(each for each in folder.iterdir() if each.is_file()), scratch, limits, name)


def read_file(path: Path, scratch: Path, limits: Limits, name: str) -> Volume:
    """Open a file of many frames; see ``open_volume``."""
    return _read([path], scratch, limits, name)


def _read(paths: Sequence[Path], scratch: Path, limits: Limits, name: str) -> Volume:
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    with warnings.catch_warnings(action="ignore"):
        planes, step = planes_of(paths, name)
        scales = {(plane.slope, plane.intercept) for plane in planes}
        slope, intercept = scales.pop() if len(scales) == 1 else (1.0, 0.0)
        first = planes[0].picture
        dtype = np.dtype(np.float32) if scales else first.dtype
        shape = check_shape((len(planes), first.rows, first.columns), dtype.itemsize, limits, name)
        grid = _grid(planes, step, shape)
        _check_syntax(first.syntax, name)
        stored = _decode(planes, scratch / "voxels", shape, dtype, name, scale=bool(scales))
    source = list(dict.fromkeys(plane.picture.path for plane in planes))
    return Volume(name, "dicom", grid, stored, slope, intercept, source=source)


def planes_of(paths: Sequence[Path], name: str) -> tuple[list[Plane], NDArray[np.float64]]:
    """The planes of one series in order, from their files' headers, and the step from one to the next in mm (x, y, z).

    Raises:
        VolumeError: no picture, several series, or a damaged file.
        VolumeShapeError: a single plane.
        VolumeGeometryError: planes that do not make a volume.
    """
    planes = [plane for path in paths for plane in _planes(path, len(paths) > 1, name)]
    if not planes:
        expected = "DICOM files with pixels (and DICM at byte 128)"
        raise VolumeError("no pictures", where=name, expected=expected, got=f"{len(paths)} other files")
    _check_alike(planes, name)
    return _in_order(planes, name)


def _planes(path: Path, several: bool, name: str) -> list[Plane]:
    """Of one file, from its header; none where it is no picture."""
    import pydicom

    where = f"{name}: {path.name}" if several else name
    with path.open("rb") as file:
        if file.read(132)[128:] != MAGIC:
            return []
    with guarded(where, "the DICOM header cannot be read"):
        meta = pydicom.filereader.read_file_meta_info(path)
        syntax = str(meta.get("TransferSyntaxUID", ""))
        if syntax == DEFLATED:
            _check_syntax(syntax, where)
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
        if header.get("Rows") is None or header.get("Columns") is None:
            return []
        picture = _picture(header, path, syntax, where)
        if picture.frames > 1 or header.get("PerFrameFunctionalGroupsSequence"):
            return _frames(header, picture, where)
        return [_plane([header], [header], [header], [header], picture, 0, where)]


def _picture(header: Any, path: Path, syntax: str, where: str) -> Picture:
    samples, bits = int(header.get("SamplesPerPixel", 1)), int(header.get("BitsAllocated", 0))
    if samples != 1 or bits not in (8, 16, 32):
        expected, got = "one number of 8, 16 or 32 bits for a pixel", f"{samples} of {bits} bits"
        raise VolumeError("pixels of a kind that is not read", where=where, expected=expected, got=got)
    rows, columns, frames = int(header.Rows), int(header.Columns), int(header.get("NumberOfFrames") or 1)
    if min(rows, columns, frames) < 1 or frames > 2**20:
        got = f"{frames} frames of {rows} × {columns}"
        raise VolumeError("not sizes", where=where, expected="rows, columns and frames of 1 or more", got=got)
    dtype = np.dtype(f"{'i' if int(header.get('PixelRepresentation', 0)) else 'u'}{bits // 8}")
    needed, there = rows * columns * frames * dtype.itemsize, path.stat().st_size
    if syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2") and there < needed:
        raise truncated(where, needed, there)
    about = f"{header.get('Modality', '')} {header.get('SeriesDescription', '')}".strip()
    return Picture(path, str(header.get("SeriesInstanceUID", "")), about, syntax, rows, columns, dtype, frames)


def _frames(header: Any, picture: Picture, where: str) -> list[Plane]:
    """Of a file of many frames, whose places stand in functional groups (PS3.3 C.7.6.16)."""
    shared, each = header.get("SharedFunctionalGroupsSequence") or [], header.get("PerFrameFunctionalGroupsSequence") or []
    if len(each) != picture.frames:
        expected, got = f"{picture.frames} functional groups", f"{len(each)}"
        fix = "Convert the file to NIfTI, with where its frames lie."
        raise VolumeGeometryError("frames without positions", where=where, expected=expected, got=got, fix=fix)

    def macro(group: Any, keyword: str) -> list[Any]:
        return [holder.get(keyword)[0] for holder in (group, *shared[:1]) if holder.get(keyword)]

    return [
        _plane(
            macro(group, "PlanePositionSequence"),
            macro(group, "PlaneOrientationSequence"),
            macro(group, "PixelMeasuresSequence"),
            macro(group, "PixelValueTransformationSequence"),
            picture,
            number,
            where,
        )
        for number, group in enumerate(each)
    ]


def _plane(
    position: list[Any],
    orientation: list[Any],
    measures: list[Any],
    values: list[Any],
    picture: Picture,
    frame: int,
    where: str,
) -> Plane:
    """From the datasets that tell each of these, if any does."""
    axes = _numbers(orientation, "ImageOrientationPatient", 6, where).reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if not (np.abs(lengths - 1) < 0.01).all():
        where = f"{where}: ImageOrientationPatient"
        raise VolumeGeometryError("not directions", where=where, expected="two vectors of length 1", got=axes.tolist())
    spacing = _numbers(measures, "PixelSpacing", 2, where)
    slope, intercept = (_number(values, keyword, default, where) for keyword, default in SCALE)
    place = _numbers(position, "ImagePositionPatient", 3, where)
    return Plane(picture, frame, place, axes / lengths[:, None], spacing, slope, intercept)


SCALE = (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))


def _numbers(holders: list[Any], keyword: str, count: int, where: str) -> NDArray[np.float64]:
    value = holders[0].get(keyword) if holders else None
    if value is None or isinstance(value, (str, float, int)) or len(value) != count:
        fix = "Without it nobody knows how the planes lie: export the series again, or convert it to NIfTI."
        where, expected = f"{where}: {keyword}", f"{count} numbers"
        raise VolumeGeometryError("missing or not numbers", where=where, expected=expected, got=value, fix=fix)
    numbers = np.array([float(each) for each in value])
    if not np.isfinite(numbers).all() or np.abs(numbers).max() > 1e6:
        raise VolumeGeometryError("not numbers", where=f"{where}: {keyword}", expected=f"{count} numbers", got=value)
    return numbers


def _number(holders: list[Any], keyword: str, default: float, where: str) -> float:
    value = holders[0].get(keyword) if holders else None
    number = default if value is None or value == "" else float(value)
    if not np.isfinite(number):
        raise VolumeError("not a number", where=f"{where}: {keyword}", expected="a finite number", got=number)
    return number


def _check_alike(planes: Sequence[Plane], name: str) -> None:
    """Refuse more than one series, and planes that do not fit together."""
    series = Counter((plane.picture.series, plane.picture.about) for plane in planes)
    if len({uid for uid, _ in series}) > 1:
        got = "; ".join(f"{count} planes of {about or 'no description'} ({uid})" for (uid, about), count in series.most_common())
        fix = "Send each series alone, in a folder of its own."
        raise VolumeError("several series", where=name, expected="one SeriesInstanceUID", got=got, fix=fix)
    first = planes[0]
    for plane in planes:
        for what, one, other in (
            ("size", *((each.picture.rows, each.picture.columns) for each in (first, plane))),
            ("type of pixels", *(str(each.picture.dtype) for each in (first, plane))),
            ("transfer syntax", *(each.picture.syntax for each in (first, plane))),
        ):
            if one != other:
                got = f"{other} in {plane.label}"
                raise VolumeGeometryError(
                    f"planes differ in {what}", where=name, expected=f"{one} as in {first.label}", got=got, fix=APART
                )
        for what, turn, turned, tolerance in (
            ("orientation", first.orientation, plane.orientation, SHEAR),
            ("spacing", first.spacing, plane.spacing, 1e-3 * float(np.abs(first.spacing).max())),
        ):
            if np.abs(turn - turned).max() > tolerance:
                expected, got = f"{turn.ravel().tolist()} as in {first.label}", f"{turned.ravel().tolist()} in {plane.label}"
                raise VolumeGeometryError(f"planes differ in {what}", where=name, expected=expected, got=got, fix=APART)


APART = "Put the planes of one volume alone into a folder (no scouts, no other directions)."


def _in_order(planes: Sequence[Plane], name: str) -> tuple[list[Plane], NDArray[np.float64]]:
    """Planes along their normal, and the step from one to the next in mm (x, y, z).

    Raises:
        VolumeShapeError: a single plane.
        VolumeGeometryError: planes at one place, missing, at uneven distances, or shifted sideways.
    """
    if len(planes) < 2:
        fix = "Send a whole series: its folder, or a zip of it."
        raise VolumeShapeError("a single plane", where=name, expected="a series of planes", got=planes[0].label, fix=fix)
    normal = np.cross(*planes[0].orientation)
    heights = [float(plane.position @ normal) for plane in planes]
    order = np.argsort(heights, kind="stable")
    ordered = [planes[number] for number in order]
    gaps = np.diff([heights[number] for number in order])
    # Half of the distances being too small means planes at one place: then the median says nothing.
    usual = float(np.median(gaps[gaps > ROUNDED])) if (gaps > ROUNDED).any() else 0.0
    for number, gap in enumerate(gaps.tolist()):
        _check_gap(gap, usual, ordered[number], ordered[number + 1], name)
    step = (ordered[-1].position - ordered[0].position) / len(gaps)
    sideways = np.linalg.norm(step - (step @ normal) * normal) / np.linalg.norm(step)
    if sideways > SHEAR:
        raise VolumeGeometryError(
            "planes are shifted sideways, as with a tilted gantry",
            where=name,
            expected="positions along the planes' normal",
            got=f"{np.degrees(np.arcsin(min(1.0, float(sideways)))):.2f} degrees off it",
            fix="Resample the series onto a perpendicular grid first.",
        )
    return ordered, step


def _check_gap(gap: float, usual: float, plane: Plane, following: Plane, name: str) -> None:
    pair = f"between {plane.label} and {following.label}"
    if gap <= min(ROUNDED, 0.1 * usual) or usual == 0.0:
        fix = "Send one point in time, one echo or one reconstruction alone."
        raise VolumeGeometryError(
            "two planes at one place", where=name, expected="one plane at each", got=f"{gap:.3f} mm {pair}", fix=fix
        )
    if abs(gap - usual) > max(UNEVEN * usual, ROUNDED):
        missing = round(gap / usual) - 1
        whole = missing > 0 and abs(gap - (missing + 1) * usual) <= max(UNEVEN * usual, ROUNDED)
        problem = f"{missing} plane{'s' * (missing > 1)} missing" if whole else "planes at uneven distances"
        fix = "Send the whole series." if whole else "Resample the series onto even distances first."
        raise VolumeGeometryError(problem, where=name, expected=f"{usual:.3f} mm", got=f"{gap:.3f} mm {pair}", fix=fix)


def _grid(planes: Sequence[Plane], step: NDArray[np.float64], shape: tuple[int, int, int]) -> Grid:
    first = planes[0]
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[0] * first.spacing[1]
    affine[:3, 1] = first.orientation[1] * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, first.position
    return Grid(shape, LPS_TO_RAS @ affine)


def _check_syntax(syntax: str, where: str) -> None:
    """Refuse pixels that cannot be unpacked here."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    uid = UID(syntax)
    try:
        ready = syntax != DEFLATED and get_decoder(uid).is_available
    except NotImplementedError:
        ready = False
    if not ready:
        got = f"{uid.name} ({syntax})" if syntax and uid.name != syntax else syntax or "none"
        fix = "Save the series uncompressed (Explicit VR Little Endian), for example with dcmdjpeg or gdcmconv --raw."
        raise VolumeError("a transfer syntax that is not read", where=where, got=got, fix=fix)


def _decode(
    planes: Sequence[Plane], target: Path, shape: tuple[int, int, int], dtype: np.dtype[Any], name: str, *, scale: bool
) -> NDArray[Any]:
    """Planes one by one, onto disk; scaled where they are not scaled alike."""
    stored: NDArray[Any] = np.memmap(target, dtype, "w+", shape=shape)
    for number, (plane, pixels) in enumerate(_pixels(planes, name)):
        if pixels.shape != shape[1:]:
            raise VolumeError(
                "a plane of another size", where=f"{name}: {plane.label}", expected=f"{shape[1:]}", got=pixels.shape
            )
        if scale:
            stored[number] = pixels * plane.slope + plane.intercept
        elif pixels.dtype != dtype and not np.can_cast(pixels.dtype, dtype, "safe"):
            raise VolumeError("pixels of another type", where=f"{name}: {plane.label}", expected=f"{dtype}", got=pixels.dtype)
        else:
            stored[number] = pixels
    return stored


def _pixels(planes: Sequence[Plane], name: str) -> Iterator[tuple[Plane, NDArray[Any]]]:
    from pydicom.pixels.utils import iter_pixels

    for path, group in itertools.groupby(planes, lambda plane: plane.picture.path):
        held = list(group)
        with guarded(f"{name}: {path.name}", "the pixels cannot be read"):
            yield from zip(held, iter_pixels(path, indices=[plane.frame for plane in held]), strict=True)
