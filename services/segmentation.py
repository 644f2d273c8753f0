"""The work behind the segmenter's endpoints: which bundle, which answer, what is refused.

What can be wrong with a volume's bytes is said by the predictor, which looks at its header before memory is spent, and not at
what the client calls it.
"""

from __future__ import annotations

import functools
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from models.errors import UnavailableError, UnprocessableError
from models.segmenter.formats import default_suffix
from models.segmenter.grid import Spacing
from models.segmenter.preview import draw
from models.segmenter.volume import Limits as VolumeLimits
from models.segmenter.volume import Volume
from services import metrics
from services.file_calls import FileCalls, display_stem
from services.pool import Job
from services.record import note
from services.service import UnknownModelError
from services.settings import Settings
from services.uploads import Upload
from services.workspace import Made, Workspace, disk_errors

_HELD = 2**30  # bytes of scores at once
_BARE_KINDS = ("application/octet-stream", "application/gzip", "application/zip", "application/dicom", "image/")
KINDS = {
    ".nii.gz": "application/gzip",
    ".nii": "application/octet-stream",
    ".nrrd": "application/octet-stream",
    ".mha": "application/octet-stream",
    ".tif": "image/tiff",
    ".dcm": "application/dicom",
    ".zarr": "application/zip",
    ".png": "image/png",
    ".json": "application/json",
}
"""Media types of the answers, by ending."""

_ENDINGS = (".nii.gz", ".ome.tif", ".ome.tiff", ".ome.zarr.zip", ".zarr.zip")


class Segmented(Protocol):
    """What the predictor found."""

    @property
    def notes(self) -> list[str]: ...
    def as_dict(self) -> dict[str, Any]: ...


class Segmenter(Protocol):
    """What the endpoints need of `models.segmenter.Segmenter`."""

    @property
    def spec(self) -> Any: ...
    @property
    def classes(self) -> list[str]: ...
    def segment_file(
        self,
        source: Path,
        target: Callable[[Volume], Path | None],
        *,
        spacing: Spacing | None = None,
        flips: str = "",
        limits: VolumeLimits | None = None,
        name: str = "",
        scratch: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        seen: Callable[[Volume, Any], None] | None = None,
    ) -> Segmented: ...


class SegmentForm(BaseModel):
    """The fields beside the volume."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[
        str | None, Field(description="A bundle's name, see /models.", json_schema_extra={"x-bundles": "segmenter"})
    ] = None
    output: Annotated[
        Literal["labels", "preview", "summary"],
        Field(description="A label map; a PNG of three planes with the labels over them; classes and millilitres as JSON."),
    ] = "labels"
    format: Annotated[
        Literal["same", "nii.gz", "nii", "nrrd", "mha", "tif", "dcm"],
        Field(description="Of the label map: that of the volume, or another. dcm is DICOM SEG, for DICOM series."),
    ] = "same"
    spacing: Annotated[
        str | None, Field(description="Z,Y,X: millimetres between voxels, where the file does not say it.", max_length=100)
    ] = None
    flips: Annotated[
        str, Field(description="Axes, of z, y and x, that the volume is also looked at mirrored along.", pattern="^[zyx]{0,3}$")
    ] = ""


def parse_spacing(text: str | None) -> Spacing | None:
    """Z,Y,X in millimetres.

    Raises:
        UnprocessableError: not three numbers above 0.
    """
    if not text:
        return None
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError:
        z = y = x = 0.0
    if not (min(z, y, x) > 0 and max(z, y, x) < float("inf")):
        raise UnprocessableError("not a spacing", where="spacing", expected="three numbers above 0, such as 3,1,1", got=text)
    return z, y, x


class Segmentation(FileCalls):
    """Everything behind the segmenter's endpoints."""

    def __init__(self, segmenters: Mapping[str, Segmenter], settings: Settings) -> None:
        at_once, waiting = settings.segmentations, settings.queue_segmentations
        super().__init__("segment", "volume", _BARE_KINDS, settings, at_once=at_once, waiting=waiting)
        self.segmenters = dict(segmenters)

    def require_bundle(self) -> None:
        if not self.segmenters:
            where = self._settings.bundles.name
            raise UnavailableError("no segmenter bundle is loaded", where=where, fix="Add one and restart.")

    def choose(self, model: str | None) -> Segmenter:
        """The bundle named; the only one, where there is but one.

        Volumes of one kind are noise to a network for another, so none is guessed.

        Raises:
            UnavailableError: there is none.
            UnknownModelError: none has this name, or several could be meant.
        """
        self.require_bundle()
        known = ", ".join(self.segmenters)
        if model is None and len(self.segmenters) == 1:
            return next(iter(self.segmenters.values()))
        if model is None:
            raise UnknownModelError("which model?", where="model", expected=f"one of {known}", got="no name")
        if model not in self.segmenters:
            raise UnknownModelError("unknown model", where="model", expected=f"one of {known}", got=model)
        return self.segmenters[model]

    def work(self, upload: Upload, workspace: Workspace) -> Callable[[Job], Made]:
        form = upload.form(SegmentForm)
        if "model" in upload.queried:  # what is wrong there is told, also where the form names another
            self.choose(upload.queried["model"])
        segmenter = self.choose(form.model)
        spacing = parse_spacing(form.spacing)  # refused now, not in a thread
        return functools.partial(segment_upload, segmenter, upload, form, spacing, workspace, self._settings)


def segment_upload(
    segmenter: Segmenter,
    upload: Upload,
    form: SegmentForm,
    spacing: Spacing | None,
    workspace: Workspace,
    settings: Settings,
    job: Job,
) -> Made:
    """What one volume's call asks for, as a file of its workspace; runs in a thread.

    Raises:
        InputError: the volume cannot be read, is too large, or cannot be segmented.
        UnavailableError: the disk is full.
    """

    def report(done: int, total: int) -> None:
        job.progress = done / total

    made: dict[str, Path] = {}
    with workspace.in_use() as folder, disk_errors(), workspace.scratch() as scratch:

        def target(volume: Volume) -> Path | None:
            note(model=segmenter.spec.name, voxels=math.prod(volume.grid.shape))
            if form.output != "labels":
                return None
            suffix = default_suffix(volume) if form.format == "same" else f".{form.format}"
            if suffix == ".dcm" and volume.kind != "dicom":
                expected = "a DICOM series, which the segmentation would refer to"
                raise UnprocessableError("DICOM SEG needs a DICOM series", where="format", expected=expected, got=volume.kind)
            made[suffix] = folder / f"labels{suffix}"
            return made[suffix]

        def seen(volume: Volume, found: Any) -> None:
            metrics.voxels(math.prod(volume.grid.shape))
            if form.output == "preview":
                made[".png"] = folder / "preview.png"
                made[".png"].write_bytes(draw(volume, found.labels))

        found = segmenter.segment_file(
            upload.path,
            target,
            spacing=spacing,
            flips=form.flips,
            limits=VolumeLimits(settings.max_voxels, settings.max_voxels * 8, held=_HELD),
            name="volume",
            scratch=scratch,
            progress=report,
            cancelled=job.cancelled,
            seen=seen,
        )
        if form.output == "summary":
            made[".json"] = folder / "summary.json"
            about = {"model": segmenter.spec.name, **found.as_dict()}
            made[".json"].write_text(json.dumps(about, ensure_ascii=False) + "\n", "utf-8")
        [(suffix, path)] = made.items()
        stem = "-".join(filter(None, (display_stem(upload.name, _ENDINGS), form.output)))
        if path.is_dir():
            path, stem = _zipped(path, folder / "labels.zip", f"{stem}{suffix}"), f"{stem}{suffix}"
            return Made(path, f"{stem}.zip", KINDS[suffix], _headers(found))
        return Made(path, f"{stem}{suffix}", KINDS[suffix], _headers(found))


def _headers(found: Segmented) -> dict[str, str]:
    """What the file left open, in ASCII, as headers must be."""
    return {"X-Volume-Notes": json.dumps(found.notes)} if found.notes else {}


def _zipped(folder: Path, target: Path, name: str) -> Path:
    """A folder as an archive."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, f"{name}/{file.relative_to(folder)}")
    return target
