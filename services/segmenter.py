"""``POST /segment`` and its task calls: the label map of a volume, on the volume's own grid.

What happens behind them is told in `services.segmentation`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import bentoml
from _bentoml_sdk import IODescriptor
from pydantic import BaseModel, Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from models import errors
from services.file_calls import task_id
from services.file_operations import FileOperations
from services.json_body import json_response
from services.openapi import BINARY, described
from services.pool import standing_back
from services.routes import route
from services.segmentation import KINDS, Segmentation, Segmenter, SegmentForm
from services.service import ConvoyService, TaskEndpoints, load_bundles
from services.settings import Limits, Settings, service_config
from services.uploads import UploadCall

log = logging.getLogger("convoy.segmenter")


class VolumeForm(SegmentForm):
    """The form of ``POST /segment``, for its description."""

    volume: Annotated[
        bytes,
        WithJsonSchema(BINARY),
        Field(description="The volume: NIfTI, NRRD, MHA, TIFF, or a zip of a DICOM series or an OME-Zarr, by content."),
    ]


class SegmentRequest(UploadCall):
    """The body of ``POST /segment``."""

    form: ClassVar[type[BaseModel]] = VolumeForm


class LabelMap(IODescriptor):
    """The answer: a label map on the volume's grid, a picture, or a summary."""

    media_type: ClassVar[str | None] = KINDS[".nii.gz"]

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return dict(BINARY)


def load_segmenters(folder: Path, nice: int = 0) -> dict[str, Segmenter]:
    """Every segmenter bundle below `folder`, by name; their networks stand back so far behind other work.

    Raises:
        BundleError: one is damaged, or two have the same name.
    """
    segmenters = standing_back(nice, lambda: load_bundles(folder, "segmenter", _load))
    if not segmenters:
        log.warning("no segmenter bundle in %s: /segment will answer 503", folder)
    return segmenters


def _load(path: Path) -> Segmenter:
    from models.segmenter.predictor import Segmenter as BundleSegmenter

    return BundleSegmenter.load(path)


def describe(segmenter: Segmenter) -> dict[str, object]:
    """A bundle's line in ``GET /models``."""
    spec = segmenter.spec
    known = {"classes": list(segmenter.classes), "spacing": spec.preprocessing.get("spacing")}
    return {"name": spec.name, "task": "segmenter", **known, "licence": spec.licence, "figures": spec.figures}


class ClassFound(BaseModel):
    """How much of a class there is."""

    label: Annotated[int, Field(description="Its number in the label map.")]
    name: str
    voxels: int
    millilitres: Annotated[float | None, Field(description="null where the volume's spacing is unknown.")]


class Summary(BaseModel):
    """What was found, with ``output=summary``."""

    model: str
    shape: Annotated[list[int], Field(description="Voxels along z, y, x.")]
    spacing: Annotated[list[float] | None, Field(description="Millimetres along z, y, x; null where unknown.")]
    classes: list[ClassFound]
    notes: Annotated[list[str], Field(description="What the file left open.")]


_DESCRIBED = FileOperations(
    "/segment",
    VolumeForm,
    "volume",
    ["application/gzip", "application/octet-stream", "application/zip", "application/dicom", "image/tiff"],
    dict.fromkeys(KINDS.values(), BINARY) | {KINDS[".json"]: Summary},
    [error for error in vars(errors).values() if isinstance(error, type) and error.__name__.startswith("Volume")],
    {"X-Volume-Notes": {"description": "What the file left open: a list of texts in JSON.", "schema": {"type": "string"}}},
)


class SegmenterEndpoints(TaskEndpoints):
    """The segmenter's API methods, to be served alone (`SegmenterService`) or with other tasks (the gateway).

    Args:
        segmenters: loaded segmenters by name; by default those of every segmenter bundle in ``CONVOY_BUNDLES``.
        settings: limits; by default from the environment.
    """

    def __init__(
        self, segmenters: Mapping[str, Segmenter] | None = None, settings: Settings | None = None, **others: Any
    ) -> None:
        super().__init__(settings=settings, **others)
        loaded = load_segmenters(self.settings.bundles, self.settings.nice) if segmenters is None else segmenters
        self.segmentation = Segmentation(loaded, self.settings)
        self.catalogue.extend(map(describe, loaded.values()))

    @classmethod
    def limits(cls, settings: Settings) -> dict[str, Limits]:
        return super().limits(settings) | dict.fromkeys(("/segment", "/segment/submit"), settings.volume_limits)

    @bentoml.api(route="/segment", input_spec=SegmentRequest, output_spec=LabelMap)
    @described(_DESCRIBED.call)
    async def segment(self, request: Request) -> Response:
        """The label map of a volume on its own grid; or a picture of it, or how much of each class there is."""
        return await self.segmentation.answer(request)

    @route("POST", "/segment/submit", _DESCRIBED.submit)
    async def submit_segmentation(self, request: Request) -> Response:
        """As /segment, for work longer than a request: answers at once, with the task's id."""
        return json_response(await self.segmentation.submit(request), 202)

    @route("GET", "/segment/status", _DESCRIBED.ask)
    async def segmentation_status(self, request: Request) -> Response:
        """What became of a task: pending, in_progress, completed, failed or canceled."""
        return json_response(await self.segmentation.tasks.describe(task_id(request)))

    @route("GET", "/segment/get", _DESCRIBED.fetch)
    async def segmentation_result(self, request: Request) -> Response:
        """What a completed task made."""
        return await self.segmentation.result(task_id(request))

    @route("PUT", "/segment/cancel", _DESCRIBED.ask)
    async def cancel_segmentation(self, request: Request) -> Response:
        """Stop a task that waits or runs."""
        return json_response(await self.segmentation.tasks.cancel(task_id(request)))

    @bentoml.on_startup
    def start_segmentation(self) -> None:
        self.segmentation.start()

    @bentoml.on_shutdown
    async def close_segmentation(self) -> None:
        await self.segmentation.close()


SegmenterService = bentoml.service(name="segmenter", service_class=ConvoyService, **service_config())(SegmenterEndpoints)
