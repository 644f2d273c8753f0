"""``POST /separate``, its task calls, and ``WS /separate/stream``: the voices of a recording, each on its own.

What happens behind them is told in `services.separation`, and how a live stream speaks in `services.streams`.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import bentoml
from _bentoml_sdk import IODescriptor
from pydantic import BaseModel, Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from models import errors
from models.errors import InputError, TooLargeError, UnavailableError
from services import streams
from services.batching import BusyError
from services.file_calls import task_id
from services.file_operations import FileOperations
from services.json_body import json_response
from services.openapi import BINARY, described, socket
from services.pool import standing_back
from services.routes import route, websocket
from services.separation import KINDS, NotCausalError, SeparateForm, Separation, Separator
from services.service import ConvoyService, TaskEndpoints, UnknownModelError, load_bundles
from services.settings import Limits, Settings, service_config
from services.streams import ForeignPageError, IdleError, NotPcmError, StreamForm
from services.uploads import UploadCall

log = logging.getLogger("convoy.separator")


class RecordingForm(SeparateForm):
    """The form of ``POST /separate``, for its description."""

    audio: Annotated[
        bytes, WithJsonSchema(BINARY), Field(description="The recording: WAV, FLAC, OGG or MP3, whatever it is called.")
    ]


class SeparateRequest(UploadCall):
    """The body of ``POST /separate``."""

    form: ClassVar[type[BaseModel]] = RecordingForm


class Voices(IODescriptor):
    """The answer: one file of the recording's rate and length with a channel per speaker, or a zip of files."""

    media_type: ClassVar[str | None] = KINDS["wav"]

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return dict(BINARY)


def load_separators(folder: Path, nice: int = 0) -> dict[str, Separator]:
    """Every separator bundle below `folder`, by name; their networks stand back so far behind other work.

    Raises:
        BundleError: one is damaged, or two have the same name.
    """
    separators = standing_back(nice, lambda: load_bundles(folder, "separator", _load))
    if not separators:
        log.warning("no separator bundle in %s: /separate will answer 503", folder)
    return separators


def _load(path: Path) -> Separator:
    from models.separator.predictor import Separator as BundleSeparator

    return BundleSeparator.load(path)


def describe(separator: Separator) -> dict[str, object]:
    """A bundle's line in ``GET /models``."""
    spec = separator.spec
    known = {"sources": list(separator.sources), "sample_rate": separator.sample_rate, "causal": separator.causal}
    return {"name": spec.name, "task": "separator", **known, "licence": spec.licence, "figures": spec.figures}


_DESCRIBED = FileOperations(
    "/separate",
    RecordingForm,
    "audio",
    ["audio/wav", "audio/flac", "audio/ogg", "audio/mpeg", "application/octet-stream"],
    dict.fromkeys(KINDS.values(), BINARY),
    [error for error in vars(errors).values() if isinstance(error, type) and error.__name__.startswith("Audio")],
    {"X-Voices-Scale": {"description": "What the voices were multiplied with to fit.", "schema": {"type": "number"}}},
)

_STREAM = socket(
    inspect.cleandoc(streams.__doc__ or ""),
    StreamForm,
    [InputError, NotPcmError, IdleError, TooLargeError, UnknownModelError, NotCausalError, BusyError, UnavailableError],
    [ForeignPageError],
)


class SeparatorEndpoints(TaskEndpoints):
    """The separator's API methods, to be served alone (`SeparatorService`) or with other tasks (the gateway).

    Args:
        separators: loaded separators by name; by default those of every separator bundle in ``CONVOY_BUNDLES``.
        settings: limits; by default from the environment.
    """

    def __init__(
        self, separators: Mapping[str, Separator] | None = None, settings: Settings | None = None, **others: Any
    ) -> None:
        super().__init__(settings=settings, **others)
        loaded = load_separators(self.settings.bundles, self.settings.nice) if separators is None else separators
        self.separation = Separation(loaded, self.settings)
        self.catalogue.extend(map(describe, loaded.values()))

    @classmethod
    def limits(cls, settings: Settings) -> dict[str, Limits]:
        return super().limits(settings) | dict.fromkeys(("/separate", "/separate/submit"), settings.audio_limits)

    @bentoml.api(route="/separate", input_spec=SeparateRequest, output_spec=Voices)
    @described(_DESCRIBED.call)
    async def separate(self, request: Request) -> Response:
        """The voices of a recording: one file of its rate and length with a channel per speaker, or a zip of files."""
        return await self.separation.answer(request)

    @route("POST", "/separate/submit", _DESCRIBED.submit)
    async def submit_separation(self, request: Request) -> Response:
        """As /separate, for work longer than a request: answers at once, with the task's id."""
        return json_response(await self.separation.submit(request), 202)

    @route("GET", "/separate/status", _DESCRIBED.ask)
    async def separation_status(self, request: Request) -> Response:
        """What became of a task: pending, in_progress, completed, failed or canceled."""
        return json_response(await self.separation.tasks.describe(task_id(request)))

    @route("GET", "/separate/get", _DESCRIBED.fetch)
    async def separation_result(self, request: Request) -> Response:
        """What a completed task made."""
        return await self.separation.result(task_id(request))

    @route("PUT", "/separate/cancel", _DESCRIBED.ask)
    async def cancel_separation(self, request: Request) -> Response:
        """Stop a task that waits or runs."""
        return json_response(await self.separation.tasks.cancel(task_id(request)))

    @websocket("/separate/stream", _STREAM)
    async def stream_separation(self, socket: WebSocket) -> None:
        """Live separation; `services.streams` says how the two talk."""
        await self.separation.streams.serve(socket, functools.partial(self.separation.choose, live=True))

    @bentoml.on_startup
    def start_separation(self) -> None:
        self.separation.start()

    @bentoml.on_shutdown
    async def close_separation(self) -> None:
        await self.separation.close()


SeparatorService = bentoml.service(name="separator", service_class=ConvoyService, **service_config())(SeparatorEndpoints)
