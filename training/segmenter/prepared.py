"""Annotated volumes as training reads them: turned, resampled and normalised once, then mapped from a cache on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import DataFormatError
from models.segmenter.formats import open_volume
from models.segmenter.plan import Plan
from models.segmenter.sampling import Between, Floats, Sight, see
from models.segmenter.volume import Volume
from training.segmenter.annotation import Annotation, Labels
from training.segmenter.cases import Case
from training.segmenter.losses import UNANNOTATED

VERSION = 1  # of what is cached
MOST_PLACES = 20_000  # voxels of a class that a case remembers to draw patches around
Places = NDArray[np.int32]


@dataclass
class Prepared:
    """A case.

    Attributes:
        case: what it was made of.
        folder: in the cache.
    """

    case: Case
    folder: Path

    @cached_property
    def image(self) -> Floats:
        """(z, y, x), mapped from disk."""
        values: Floats = np.load(self.folder / "image.npy", mmap_mode="r")
        return values

    @cached_property
    def labels(self) -> Labels:
        """(z, y, x), ``UNANNOTATED`` where nothing counts; mapped from disk."""
        values: Labels = np.load(self.folder / "labels.npy", mmap_mode="r")
        return values

    @cached_property
    def places(self) -> dict[int, Places]:
        """Some voxels (n, 3) of each class that is there."""
        with np.load(self.folder / "places.npz") as stored:
            return {int(label): stored[label] for label in stored}


def prepare(case: Case, plan: Plan, annotation: Annotation, cache: Path) -> Prepared:
    """A case in the cache; it is made again whenever a file, the plan or the annotation has changed."""
    folder = cache / f"{case.name}-{_digest(case, plan, annotation)}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".making-") as scratch:
            partial = Path(scratch) / "done"
            partial.mkdir()
            _make(case, plan, annotation, partial, Path(scratch))
            try:
                partial.rename(folder)
            except OSError:  # another process was first
                shutil.rmtree(partial)
    return Prepared(case, folder)


def _make(case: Case, plan: Plan, annotation: Annotation, folder: Path, scratch: Path) -> None:
    volume = open_volume(case.image, scratch, name=str(case.image))
    sight = see(volume, plan)
    labels = resampled_labels(annotation.apply(label_map(case, volume, scratch), str(case.label), len(plan.classes)), sight)
    np.save(folder / "labels.npy", labels)
    whole = tuple(slice(0, size) for size in sight.shape)
    np.save(folder / "image.npy", sight.block((whole[0], whole[1], whole[2])))
    generator = np.random.default_rng(0)
    places = {}
    for label in range(len(plan.classes)):
        flat = np.flatnonzero(labels == label)
        if len(flat) > MOST_PLACES:
            flat = generator.choice(flat, MOST_PLACES, replace=False)
        if len(flat):
            places[str(label)] = np.stack(np.unravel_index(np.sort(flat), labels.shape), 1).astype(np.int32)
    np.savez(folder / "places.npz", **places)  # type: ignore[arg-type]


def label_map(case: Case, volume: Volume, scratch: Path) -> NDArray[np.generic]:
    """The voxels of the label map; DataFormatError where it lies on another grid."""
    (inner := scratch / "labels").mkdir()
    labels = open_volume(case.label, inner, name=str(case.label))
    same = labels.grid.shape == volume.grid.shape
    if same and labels.grid.affine is not None and volume.grid.affine is not None:
        same = np.allclose(labels.grid.affine[:3, :3], volume.grid.affine[:3, :3], rtol=1e-2, atol=1e-3)
    if not same:
        raise DataFormatError(
            "the label map lies on another grid than its volume",
            where=str(case.label),
            expected=f"{volume.grid.shape} voxels {_axes(volume)}",
            got=f"{labels.grid.shape} voxels {_axes(labels)}",
            fix="Resample it onto the volume's grid, with nearest neighbours.",
        )
    if labels.slope != 1 or labels.intercept != 0:
        return np.asarray(labels.stored) * labels.slope + labels.intercept
    return np.asarray(labels.stored)


def _axes(volume: Volume) -> str:
    return "" if volume.grid.affine is None else f"with axes {np.round(volume.grid.affine[:3, :3], 3).tolist()}"


def resampled_labels(stored: Labels, sight: Sight) -> Labels:
    """A label map on the grid that the network sees: the class with the largest share of each voxel, linearly interpolated.

    A voxel counts as annotated where most of it is.
    """
    turned = np.ascontiguousarray(sight.turn.there(stored)).astype(np.int16)
    if not sight.resampled:
        return turned
    axes = [Between.axis(size, of) for size, of in zip(sight.shape, turned.shape, strict=True)]
    best = np.full(sight.shape, 0.0, np.float32)
    labels = np.full(sight.shape, UNANNOTATED, np.int16)
    for label in np.unique(turned):
        share = (turned == label).astype(np.float32)
        for number, axis in enumerate(axes):
            share = axis.interpolate(share, number)
        better = share > best
        labels[better], best[better] = label, share[better]
    return labels


def _digest(case: Case, plan: Plan, annotation: Annotation) -> str:
    """Of all that a prepared case depends on."""
    given = [path for path in (case.image, case.label, annotation.slices_file) if path is not None]
    # Of a folder (Zarr) all files count: its own date does not change with theirs.
    files = [file for path in given for file in [path, *sorted(path.rglob("*") if path.is_dir() else ())]]
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    about = plan.model_dump(mode="json", exclude={"window", "overlap", "skip_below"})
    text = json.dumps([VERSION, stats, about, asdict(annotation)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
