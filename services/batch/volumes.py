"""Volumes in, label maps out, each in bounded memory: ``in/a/scan.nii.gz`` becomes ``out/a/scan.nii.gz``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from models.errors import ConfigError
from models.segmenter.formats import default_suffix
from models.segmenter.formats.dicom import MAGIC
from models.segmenter.formats.reading import is_dicom
from models.segmenter.preview import draw
from models.segmenter.volume import Volume
from services.batch.folders import Listing, is_store
from services.batch.places import is_local
from services.batch.sources import Item
from services.batch.work import Progress

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".tif", ".tiff", ".zip", ".dcm")
"""What is taken from a folder, in either case; a file that is named is read whatever its suffix."""

_PLANE = re.compile(r"(?i)\.(dcm|dicom|ima)$|/[^/.]*$|\.\d+$")  # names that files of a series have
_LOOKED_AT = 8  # files of a folder in a store; each takes a request


class FileSegmenter(Protocol):
    """What is needed of a segmenter."""

    def segment_file(
        self,
        source: Path,
        target: Callable[[Volume], Path | None],
        *,
        spacing: tuple[float, float, float] | None,
        flips: str,
        name: str,
        progress: Progress,
        seen: Callable[[Volume, Any], None],
    ) -> Any:
        """See ``models.segmenter.Segmenter.segment_file``."""


@dataclass(frozen=True)
class Wanted:
    """What is written for each volume.

    Attributes:
        suffix: of the label map; None takes the volume's own kind.
        preview: a picture, NAME.png.
        summary: classes and their millilitres, NAME.json.
        spacing: mm (z, y, x), for files that do not say it.
        flips: axes that volumes are also looked at mirrored along.
    """

    suffix: str | None = None
    preview: bool = False
    summary: bool = False
    spacing: tuple[float, float, float] | None = None
    flips: str = ""


class VolumeHandler:
    """Segments the volumes of a run.

    Args:
        segmenter: what segments.
        wanted: what is written.
    """

    def __init__(self, segmenter: FileSegmenter, wanted: Wanted) -> None:
        self._segmenter, self._wanted = segmenter, wanted

    @classmethod
    def open(cls, bundles: Sequence[str], options: dict[str, Any]) -> VolumeHandler:
        """The handler of an assignment, with its bundle."""
        from models.segmenter import Segmenter

        return cls(Segmenter.load(bundles[0]), Wanted(**options))

    def __call__(self, source: Path, item: Item, folder: Path, progress: Progress) -> dict[str, Any]:
        """Segment a volume.

        Raises:
            InputError: of the kinds that ``models.segmenter.Segmenter.segment_file`` tells.
        """
        wanted, stem, shapes = self._wanted, folder / item.output, []
        stem.parent.mkdir(parents=True, exist_ok=True)

        def target(volume: Volume) -> Path:
            return stem.with_name(stem.name + (wanted.suffix or default_suffix(volume)))

        def seen(volume: Volume, found: Any) -> None:
            shapes.append(volume.grid.shape)
            if wanted.preview:
                stem.with_name(stem.name + ".png").write_bytes(draw(volume, found.labels))

        found = self._segmenter.segment_file(
            source, target, spacing=wanted.spacing, flips=wanted.flips, name=item.address, progress=progress, seen=seen
        )
        if wanted.summary:
            text = json.dumps(found.as_dict(), ensure_ascii=False, indent=1) + "\n"
            stem.with_name(stem.name + ".json").write_text(text, "utf-8")
        classes = {each.name: _amount(each) for each in found.classes[1:]}
        notes = {"notes": list(found.notes)} if found.notes else {}
        return {"voxels": math.prod(shapes[0]), "classes": classes} | notes


def is_volume(filesystem: Any, files: Listing) -> bool:
    """Whether a folder of these files is one volume: a DICOM series or an OME-Zarr."""
    if is_store(files):
        return True
    if is_local(filesystem):
        return any(_is_plane(Path(name)) for name in files)
    likely = [name for name in sorted(files) if _PLANE.search(name) and not name.endswith("DICOMDIR")]
    return any(filesystem.cat_file(name, start=0, end=132)[128:] == MAGIC for name in likely[:_LOOKED_AT])


def _is_plane(path: Path) -> bool:
    """Whether a file is one of a DICOM series; a DICOMDIR, which lists what is on a disc, begins as one too."""
    try:
        return path.name.upper() != "DICOMDIR" and path.is_file() and is_dicom(path)
    except OSError:  # it may not be read
        return False


def default_segmenter(folders: Sequence[Path]) -> str:
    """The only bundle there is.

    Raises:
        ConfigError: there is none, or there are several: volumes of one kind are noise to a network for another.
    """
    if len(folders) != 1:
        known = ", ".join(str(folder) for folder in folders)
        fix = f"Name it with --bundle: {known}." if folders else "Name one with --bundle."
        raise ConfigError("which bundle is to segment?", expected="one segmenter in pretrained/", got=len(folders), fix=fix)
    return str(folders[0])


def _amount(found: Any) -> str:
    return f"{found.voxels} voxels" if found.millilitres is None else f"{found.millilitres:.3g} ml"
