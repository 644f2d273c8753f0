"""OME-Zarr (NGFF 0.4 and 0.5), the first level of a multiscales image, by zarr. It does not say how a volume lies.

https://ngff.openmicroscopy.org/0.5/: axes are named and have units, `scale` is their distance, `translation` where they begin.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import VolumeError, VolumeKindError, VolumeShapeError, VolumeTooLargeError
from models.segmenter.formats.unpacking import guarded
from models.segmenter.grid import Grid, Spacing
from models.segmenter.volume import Limits, Volume, check_kind, check_shape

LARGEST_CHUNK = 2**28  # bytes that are unpacked together
SLAB = 2**26  # bytes that are copied together, if a chunk is not larger
MOST_CHUNKS, TOGETHER = 2**19, 2**10  # chunks of an image, and of them copied together
LONGEST = 2**24  # bytes of metadata
CHUNK = (64, 256, 256)  # of label images
MILLIMETRES = {
    "angstrom": 1e-7, "picometer": 1e-9, "nanometer": 1e-6, "micrometer": 1e-3, "millimeter": 1.0, "centimeter": 10.0,
    "decimeter": 100.0, "meter": 1000.0, "inch": 25.4,
}  # fmt: skip
UNTURNED = "OME-Zarr does not say how a volume lies: it was taken as stored."
UNTOLD = "The file does not say how far its voxels are apart (no unit of length), nor how it lies: it was taken as stored."


@dataclass(frozen=True)
class Image:
    """What a multiscales image says of its first level.

    Attributes:
        version: of NGFF.
        axes: name and unit of each of its axes.
        path: of the level, in the image's folder.
        scale: between voxels, in the axes' units.
        translation: of the first voxel, in the axes' units.
    """

    version: str
    axes: tuple[tuple[str, str | None], ...]
    path: str
    scale: tuple[float, ...]
    translation: tuple[float, ...]

    @property
    def space(self) -> list[int]:
        """Numbers of the axes z, y and x."""
        names = [name for name, _ in self.axes]
        return [names.index(name) for name in "zyx"]


def read_folder(folder: Path, scratch: Path, limits: Limits, name: str) -> Volume:
    """Open an image's folder; see ``open_volume``."""
    import zarr

    image = _image(folder, name)
    fix = "The image is damaged, or packed in a way that is not read: copy or export it again."
    with warnings.catch_warnings(action="ignore"), guarded(f"{name}: {image.path}", "the Zarr array cannot be read", fix):
        array = zarr.open_array(folder / image.path, mode="r")
        shape, dtype = _shape(array, image, limits, name)
        return _read(array, image, shape, dtype, scratch, name)


def _read(array: Any, image: Image, shape: tuple[int, int, int], dtype: np.dtype[Any], scratch: Path, name: str) -> Volume:
    grid, notes = _grid(image, shape)
    stored: NDArray[Any] = np.memmap(scratch / "voxels", dtype, "w+", shape=shape)
    z, y, x = image.space
    index: list[Any] = [0] * array.ndim
    for block in _blocks(shape, (array.chunks[z], array.chunks[y], array.chunks[x]), dtype.itemsize):
        index[z], index[y], index[x] = block
        stored[block] = array[tuple(index)]
    return Volume(name, "zarr", grid, stored, notes=notes, source=image)


def write(labels: NDArray[np.integer], volume: Volume, target: Path, classes: Sequence[str]) -> None:
    """Write a label image of one level, with the volume's distances and, of OME-Zarr, its units, translation and version.

    Args:
        labels: (z, y, x), uint8 or uint16.
        volume: whose grid it lies on.
        target: folder to make.
        classes: names by label.
    """
    import zarr

    image = volume.source if isinstance(volume.source, Image) else _image_of(volume)
    old = image.version == "0.4"
    shape = (labels.shape[0], labels.shape[1], labels.shape[2])
    chunks = tuple(min(size, most) for size, most in zip(shape, CHUNK, strict=True))
    with warnings.catch_warnings(action="ignore"):
        group = zarr.open_group(target, mode="w", zarr_format=2 if old else 3)
        about = _attributes(image, classes)
        group.attrs.update(about if old else {"ome": about})
        # Without the separator, chunks of Zarr 2 are not in folders, which NGFF 0.4 asks for.
        encoding: Any = {"name": "v2", "separator": "/"} if old else {"name": "default", "separator": "/"}
        array = group.create_array("0", shape=shape, chunks=chunks, dtype=labels.dtype, chunk_key_encoding=encoding, fill_value=0)
        for start in range(0, shape[0], chunks[0]):
            array[start : start + chunks[0]] = np.ascontiguousarray(labels[start : start + chunks[0]])


def _image_of(volume: Volume) -> Image:
    """What a label image says of a volume that came in another kind of file."""
    if volume.grid.spacing is None:
        return Image("0.4", tuple((name, None) for name in "zyx"), "0", (1.0,) * 3, (0.0,) * 3)
    return Image("0.4", tuple((name, "millimeter") for name in "zyx"), "0", volume.grid.spacing, (0.0,) * 3)


def _attributes(image: Image, classes: Sequence[str]) -> dict[str, Any]:
    units = [image.axes[number][1] for number in image.space]
    axes = [{"name": name, "type": "space"} | ({"unit": unit} if unit else {}) for name, unit in zip("zyx", units, strict=True)]
    transformations = [
        {"type": "scale", "scale": [image.scale[number] for number in image.space]},
        {"type": "translation", "translation": [image.translation[number] for number in image.space]},
    ]
    level = {"path": "0", "coordinateTransformations": transformations}
    told = {"version": image.version} if image.version == "0.4" else {}
    properties = [{"label-value": number, "name": name} for number, name in enumerate(classes)]
    about: dict[str, Any] = {
        "multiscales": [{"name": "labels", "axes": axes, "datasets": [level], **told}],
        "image-label": {"properties": properties, **told},
    }
    return about if told else {"version": image.version, **about}


def _metadata(folder: Path, name: str) -> tuple[str, Any]:
    """The name of a group's metadata file, and its attributes."""
    for file in ("zarr.json", ".zattrs"):
        path = folder / file
        if not path.is_file():
            continue
        if path.stat().st_size > LONGEST:
            raise VolumeError("too much metadata", where=f"{name}: {file}", expected=f"at most {LONGEST:,} bytes")
        try:
            told = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise VolumeError("not JSON", where=f"{name}: {file}", got=error) from error
        attributes = told.get("attributes") if file == "zarr.json" and isinstance(told, dict) else told
        return file, attributes.get("ome") if file == "zarr.json" and isinstance(attributes, dict) else attributes
    raise VolumeKindError("not a Zarr group", where=name, expected="zarr.json or .zattrs in it")


def _image(folder: Path, name: str) -> Image:
    """The first multiscales image of a group.

    Raises:
        VolumeKindError: a Zarr group that is no image.
        VolumeError: an image whose metadata is malformed.
        VolumeShapeError: without the axes z, y and x, in that order.
    """
    file, attributes = _metadata(folder, name)
    if not isinstance(attributes, dict) or not attributes.get("multiscales"):
        fix = "Send the folder of the image itself, not one above or below it."
        raise VolumeKindError("a Zarr group that is no image", where=f"{name}: {file}", expected="'multiscales' in it", fix=fix)
    try:
        told = attributes["multiscales"][0]
        version = str(attributes.get("version") or told.get("version") or ("0.5" if file == "zarr.json" else "0.4"))
        level = told["datasets"][0]
        axes = tuple((str(axis["name"]), axis.get("unit")) for axis in told["axes"])
        scale, translation = [1.0] * len(axes), [0.0] * len(axes)
        for each in (*level["coordinateTransformations"], *(told.get("coordinateTransformations") or [])):
            _apply(each, scale, translation)
        image = Image(version, axes, str(level["path"]), tuple(scale), tuple(translation))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        expected = "multiscales of NGFF 0.4 or 0.5 (axes, datasets, coordinateTransformations)"
        raise VolumeError("malformed metadata", where=f"{name}: {file}", expected=expected, got=error) from error
    _check(image, folder, name)
    return image


def _apply(transformation: Any, scale: list[float], translation: list[float]) -> None:
    """A coordinate transformation after those before it; ValueError where it is none."""
    kind = transformation["type"]
    if kind == "identity":
        return
    values = [float(value) for value in transformation[kind]] if kind in ("scale", "translation") else []
    if len(values) != len(scale) or not all(math.isfinite(value) for value in values):
        raise ValueError(f"a coordinate transformation {kind!r} of {len(values)} numbers for {len(scale)} axes")
    for axis, value in enumerate(values):
        if kind == "scale":
            scale[axis] *= value
            translation[axis] *= value
        else:
            translation[axis] += value


def _check(image: Image, folder: Path, name: str) -> None:
    names = [axis for axis, _ in image.axes]
    if image.version not in ("0.4", "0.5"):
        raise VolumeError("a version that is not read", where=f"{name}: version", expected="0.4 or 0.5", got=image.version)
    if [axis for axis in names if axis in "zyx"] != ["z", "y", "x"] or len(set(names)) != len(names):
        fix = "Send one volume; of a series over time or of several channels, each alone."
        raise VolumeShapeError(
            "not a volume", where=f"{name}: axes", expected="z, y, x in this order", got=", ".join(names), fix=fix
        )
    parts = image.path.split("/")
    if not image.path.isprintable() or "\\" in image.path or any(part in ("", ".", "..") for part in parts):
        raise VolumeError("a level elsewhere", where=f"{name}: path", expected="a folder within the image's", got=image.path)
    if not any((folder / image.path / file).is_file() for file in ("zarr.json", ".zarray")):
        fix = "The image was copied in part: copy it again."
        raise VolumeError("the first level is missing", where=name, expected=f"an array in {image.path!r}", fix=fix)
    if not all(image.scale[number] > 0 and image.scale[number] < 1e9 for number in image.space):
        raise VolumeError("not distances", where=f"{name}: scale", expected="numbers above 0", got=image.scale)


def _shape(array: Any, image: Image, limits: Limits, name: str) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    """Checked, from the array's metadata."""
    dtype = check_kind(np.dtype(array.dtype), name)
    if array.ndim != len(image.axes):
        raise VolumeError("another number of axes", where=f"{name}: axes", expected=f"{array.ndim}", got=len(image.axes))
    sizes = dict(zip((axis for axis, _ in image.axes), array.shape, strict=True))
    if any(size != 1 for axis, size in sizes.items() if axis not in ("z", "y", "x")):
        fix = "Send one volume; of a series over time or of several channels, each alone."
        raise VolumeShapeError("not a volume", where=name, expected="z, y, x, and one of all else", got=sizes, fix=fix)
    shape = check_shape((sizes["z"], sizes["y"], sizes["x"]), dtype.itemsize, limits, name)
    if math.prod(array.chunks) * dtype.itemsize > LARGEST_CHUNK:
        got = f"chunks of {array.chunks}"
        raise VolumeError("chunks are too large", where=name, expected=f"at most {LARGEST_CHUNK:,} bytes", got=got)
    chunks = math.prod(-(-size // part) for size, part in zip(array.shape, array.chunks, strict=True))
    if chunks > MOST_CHUNKS:
        fix = "Save the image in larger chunks."
        raise VolumeTooLargeError("too many chunks", where=name, expected=f"at most {MOST_CHUNKS:,}", got=f"{chunks:,}", fix=fix)
    return shape, dtype


def _grid(image: Image, shape: tuple[int, int, int]) -> tuple[Grid, list[str]]:
    factors = [MILLIMETRES.get(str(image.axes[number][1])) for number in image.space]
    known = [factor for factor in factors if factor is not None]
    if len(known) < 3:
        return Grid(shape), [UNTOLD]
    z, y, x = (image.scale[number] * factor for number, factor in zip(image.space, known, strict=True))
    distances: Spacing = (z, y, x)
    return Grid(shape, distances=distances), [UNTURNED]


def _blocks(shape: tuple[int, int, int], chunk: tuple[int, int, int], itemsize: int) -> Iterator[tuple[slice, slice, slice]]:
    """Blocks of whole chunks, x grown first: as large as is held at once."""
    size = list(chunk)
    for axis in (2, 1, 0):
        room = min(SLAB // (math.prod(size) * itemsize), TOGETHER * math.prod(chunk) // math.prod(size))
        size[axis] = min(max(size[axis], size[axis] * room), -(-shape[axis] // size[axis]) * size[axis])
    for z in range(0, shape[0], size[0]):
        for y in range(0, shape[1], size[1]):
            for x in range(0, shape[2], size[2]):
                yield (
                    slice(z, min(z + size[0], shape[0])),
                    slice(y, min(y + size[1], shape[1])),
                    slice(x, min(x + size[2], shape[2])),
                )
