"""A volume in, a label map on its own grid out: what the command line, batch runs and the endpoint all call."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle, fitting, open_bundle
from models.errors import (
    BundleError,
    ConfigError,
    StoppedError,
    UnprocessableError,
    VolumeGeometryError,
    VolumeShapeError,
)
from models.runtime import Runtime
from models.segmenter.formats import open_volume, write_labels
from models.segmenter.formats.writing import check_target
from models.segmenter.grid import Grid, Spacing
from models.segmenter.plan import Plan, Size
from models.segmenter.restoring import Restorer
from models.segmenter.sampling import see
from models.segmenter.tiling import Floats
from models.segmenter.volume import Limits, Volume
from models.segmenter.whole import Layout, check_work, score_volume

TOLERANCE = 0.5  # of scores before softmax; where the network is sure, those of two classes are ten and more apart
SURE = 1e4  # score of the background where a window is skipped: its voxels are background, whatever a neighbour says


@dataclass(frozen=True)
class ClassVolume:
    """How much of a class there is.

    Attributes:
        label: its number in the label map.
        name: of the class.
        voxels: of it.
        millilitres: None where the file does not say how far voxels are apart.
    """

    label: int
    name: str
    voxels: int
    millilitres: float | None


@dataclass(frozen=True)
class Segmented:
    """A label map.

    Attributes:
        labels: (z, y, x), as the volume is stored; mapped from disk where it came from a file.
        grid: that of the volume.
        classes: how much of each class there is.
        notes: what the file left open and how that was taken.
    """

    labels: NDArray[np.integer]
    grid: Grid
    classes: list[ClassVolume]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: shape, spacing in mm (z, y, x), classes, notes."""
        return {
            "shape": list(self.grid.shape),
            "spacing": None if self.grid.spacing is None else [round(value, 6) for value in self.grid.spacing],
            "classes": [vars(each) for each in self.classes],
            "notes": self.notes,
        }


Progress = Callable[[int, int], None]
Cancelled = Callable[[], bool]
Target = str | os.PathLike[str] | Callable[[Volume], Path | None]


class Segmenter:
    """A segmenter bundle, ready to run. Safe to use from several threads.

    Attributes:
        spec: what the bundle says of itself.
        plan: how volumes are prepared.
        classes: names by label, the background first.

    Example:
        >>> segmenter = Segmenter.load("pretrained/segmenter-hippocampus")
        >>> segmenter.segment("scan.nii.gz").labels.shape == segmenter.segment("scan.nii.gz").grid.shape
        True
    """

    def __init__(self, bundle: Bundle) -> None:
        self.spec = bundle.spec
        self.plan = Plan.of(bundle)
        self.classes = self.plan.classes
        path, differences = bundle.file("network.onnx"), bundle.spec.parity.precision.model_dump()
        self._runtime = Runtime(path, differences, tolerance=TOLERANCE)
        shape = (1, 1, *self.plan.window)
        self._runtime.prepare({"volume": shape})
        scores = self._runtime.run({"volume": np.zeros(shape, np.float32)})["scores"]
        if scores.shape[1] != len(self.classes):
            expected = f"{len(self.classes)} classes"
            raise BundleError(
                "the network gives other classes than the plan", where=str(path), expected=expected, got=scores.shape
            )
        z, y, x = ((whole - kept) // 2 for whole, kept in zip(self.plan.window, scores.shape[2:], strict=True))
        self._margin: Size = (z, y, x)

    @classmethod
    def load(cls, path: str | Path) -> Segmenter:
        """Open a bundle: a folder, any fsspec address, or a BentoML model tag.

        Raises:
            BundleError: the bundle is missing, damaged, of a later version or of another task.
        """
        bundle = open_bundle(path)
        if bundle.spec.task != "segmenter":
            where, got = str(path), bundle.spec.task
            raise BundleError("not a segmenter", where=where, expected="a bundle of task 'segmenter'", got=got)
        with fitting(bundle):
            return cls(bundle)

    def segment(
        self, source: str | os.PathLike[str] | NDArray[Any], spacing: Spacing | None = None, flips: str = ""
    ) -> Segmented:
        """Segment a volume and hold its label map in memory.

        Args:
            source: a file or folder: NIfTI, NRRD, MHA, TIFF, a DICOM series, OME-Zarr; or an array (z, y, x).
            spacing: mm (z, y, x) between voxels, where the file does not say it.
            flips: axes (of z, y, x, as the network sees them) that the volume is also looked at mirrored along; scores are
                averaged.

        Raises:
            InputError: of the kinds that ``open_volume`` and ``see`` tell.
        """
        with tempfile.TemporaryDirectory(prefix="convoy-") as scratch:
            if isinstance(source, np.ndarray):
                volume = Volume("array", "nifti", Grid(_three(source), distances=spacing), source)
            else:
                volume = with_spacing(open_volume(Path(source), Path(scratch)), spacing)
            labels = np.zeros(volume.grid.shape, self.label_type)
            return self.segment_volume(volume, labels, flips=flips)

    def segment_file(
        self,
        source: str | os.PathLike[str],
        target: Target,
        *,
        spacing: Spacing | None = None,
        flips: str = "",
        limits: Limits | None = None,
        name: str = "",
        scratch: Path | None = None,
        progress: Progress | None = None,
        cancelled: Cancelled | None = None,
        seen: Callable[[Volume, Segmented], None] | None = None,
    ) -> Segmented:
        """Segment a volume on disk, of any size, in bounded memory, and write its label map.

        Args:
            source: see ``segment``.
            target: file to make, whose ending says of which kind: .nii.gz, .nii, .nrrd, .mha, .tif, .zarr, or .dcm (DICOM SEG);
                or a function that names it when the volume has been opened, None for no file.
            spacing: see ``segment``.
            flips: see ``segment``.
            limits: what is accepted of the source.
            name: what messages call the source.
            scratch: an empty folder for what lies on disk meanwhile, which its owner removes; None makes one, and removes it.
            progress: called with the windows done and the windows there are.
            cancelled: asked before each window whether to stop.
            seen: called with volume and labels while both are still mapped from disk, to draw a preview.

        Returns:
            The result without its label map, which is in the file.

        Raises:
            InputError: see ``segment``.
            ConfigError: the target cannot be written so, or is the source.
            StoppedError: ``cancelled`` said so. No output is left behind.
        """
        source = Path(source)
        with contextlib.nullcontext(scratch) if scratch else tempfile.TemporaryDirectory(prefix="convoy-") as folder:
            volume = with_spacing(open_volume(source, Path(folder), limits=limits or Limits(), name=name), spacing)
            path = target(volume) if callable(target) else Path(target)
            if path is not None:
                check_target(path, volume)
            if path is not None and source.resolve() == path.resolve():
                raise ConfigError("the output would overwrite its input", where=str(path), fix="Choose another name.")
            labels = np.memmap(Path(folder) / "labels", self.label_type, "w+", shape=volume.grid.shape)
            done = self.segment_volume(volume, labels, flips=flips, limits=limits, progress=progress, cancelled=cancelled)
            if seen is not None:
                seen(volume, done)
            if path is not None:
                write_labels(labels, volume, path, self.classes)
            return Segmented(np.zeros((0, 0, 0), self.label_type), done.grid, done.classes, done.notes)

    @property
    def label_type(self) -> type[np.uint8] | type[np.uint16]:
        """Of label maps."""
        return np.uint8 if len(self.classes) <= 256 else np.uint16

    def segment_volume(
        self,
        volume: Volume,
        labels: NDArray[np.integer],
        *,
        flips: str = "",
        limits: Limits | None = None,
        progress: Progress | None = None,
        cancelled: Cancelled | None = None,
    ) -> Segmented:
        """Fill in a label map (z, y, x) of an opened volume, strip by strip."""
        mirrors = list(_mirrors(flips))
        sight = see(volume, self.plan)
        layout = Layout(sight.shape, self.plan.window, self._margin, self.plan.overlap)
        check_work(layout, len(self.classes), limits or Limits(), volume.name)
        restorer = Restorer(sight.shape, sight.turn.there(labels))
        counted = _Watched(self._network(mirrors), layout.windows, volume.name, progress, cancelled)
        counts = np.zeros(len(self.classes), np.int64)
        for strip in score_volume(sight.window, counted, layout, len(self.classes), self._runtime.streams):
            restorer.add(strip)
        for plane in labels:
            counts += np.bincount(plane.ravel(), minlength=len(counts))
        each = volume.grid.millilitres
        found = [
            ClassVolume(label, name, int(count), None if each is None else float(count) * each)
            for label, (name, count) in enumerate(zip(self.classes, counts.tolist(), strict=True))
        ]
        return Segmented(labels, volume.grid, found, [*volume.notes, *self._unsure(volume)])

    def _unsure(self, volume: Volume) -> list[str]:
        """What the network takes for granted of a volume whose file does not say it; NIfTI's reader has said so itself."""
        if self.plan.oriented and volume.grid.affine is None and volume.kind != "nifti":
            return ["The file does not say how the volume lies: its axes were taken to run up, to the front and to the right."]
        return []

    def _network(self, mirrors: Sequence[tuple[int, ...]]) -> Callable[[Floats], Floats]:
        """Scores (classes, z, y, x) of a window (1, z, y, x): the mean over its mirror images."""

        def scores(window: Floats) -> Floats:
            skip = self.plan.skip_below
            if skip is not None and window.max() < skip:
                return self._background(window.shape[1:])
            total: Floats | None = None
            for axes in mirrors:
                given = np.flip(window, axes)[None]
                answer: Floats = np.flip(self._runtime.run({"volume": given})["scores"][0], axes)
                total = answer if total is None else total + answer
            assert total is not None
            return total if len(mirrors) == 1 else total / np.float32(len(mirrors))

        return scores

    def _background(self, size: Sequence[int]) -> Floats:
        kept = [whole - 2 * lost for whole, lost in zip(size, self._margin, strict=True)]
        scores = np.zeros((len(self.classes), *kept), np.float32)
        scores[0] = SURE
        return scores


class _Watched:
    """A network that tells how far it is, and stops when it is told to. Called from several threads."""

    def __init__(
        self,
        network: Callable[[Floats], Floats],
        windows: int,
        name: str,
        progress: Progress | None,
        cancelled: Cancelled | None,
    ) -> None:
        self.network, self.windows, self.name = network, windows, name
        self.progress, self.cancelled = progress, cancelled
        self.done = 0
        self.counting = threading.Lock()

    def __call__(self, window: Floats) -> Floats:
        if self.cancelled is not None and self.cancelled():
            raise StoppedError("stopped", where=self.name, fix="Nothing was written.")
        scores = self.network(window)
        with self.counting:
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, self.windows)
        return scores


def with_spacing(volume: Volume, spacing: Spacing | None) -> Volume:
    """A volume that does not know the distances between its voxels, with those that somebody gives.

    Raises:
        VolumeGeometryError: its file says others.
    """
    if spacing is None:
        return volume
    own = volume.grid.spacing
    if own is not None and not np.allclose(own, spacing, rtol=0.01):
        fix = "Leave `spacing` out, or correct the file."
        raise VolumeGeometryError(
            "the file says another spacing", where=volume.name, expected=f"{own} mm (z, y, x)", got=spacing, fix=fix
        )
    if own is None:
        volume.grid = Grid(volume.grid.shape, distances=spacing)
    return volume


def _mirrors(flips: str) -> Iterator[tuple[int, ...]]:
    """Every combination of the axes, none of them first; of (1, z, y, x)."""
    if set(flips) - set("zyx"):
        raise UnprocessableError("no such axes", where="flips", expected="some of the letters z, y, x", got=flips)
    axes = sorted({"zyx".index(letter) + 1 for letter in flips})
    for count in range(len(axes) + 1):
        yield from itertools.combinations(axes, count)


def _three(array: NDArray[Any]) -> Size:
    if array.ndim != 3:
        raise VolumeShapeError("not a volume", where="array", expected="three axes (z, y, x)", got=array.shape)
    z, y, x = array.shape
    return z, y, x
