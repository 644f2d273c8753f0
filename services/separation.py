"""The work behind the separator's endpoints: which bundle, where the files lie, how much at once.

A recording goes to disk as it arrives, is separated from file to file in a thread, and the answer is sent from disk: memory holds
pieces only, however long it is. What can be wrong with its bytes is said by the predictor, which looks at them and not at what
the client calls them. A client who hangs up stops the work, and its files are removed.

Bundles whose network is causal serve live streams; the others serve files, which a causal one does too when it is named or alone.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from models.errors import TooLargeError, UnavailableError, UnprocessableError
from models.separator.audio import Limits as RecordingLimits
from models.separator.audio import Recording
from models.separator.writing import HIGHEST_FLAC_RATE, MOST_FLAC_CHANNELS
from services.json_body import checked
from services.pool import Job, Pool
from services.service import UnknownModelError
from services.settings import Settings
from services.streams import StreamingSeparator, Streams
from services.tasks import Task, Tasks
from services.uploads import Upload, receive
from services.workspace import FileAnswer, Workspace, Workspaces, disk_errors

_BARE_KINDS = ("audio/", "application/ogg", "application/octet-stream")
KINDS = {"wav": "audio/wav", "flac": "audio/flac", "zip": "application/zip"}
"""Media types of the answers."""

_BYTES_A_SAMPLE = 4
_LONGEST_NAME = 80


class Written(Protocol):
    """What the predictor has written."""

    @property
    def paths(self) -> Sequence[Path]: ...
    @property
    def scale(self) -> float: ...


class Separator(StreamingSeparator, Protocol):
    """What the endpoints need of `models.separator.Separator`."""

    @property
    def sample_rate(self) -> int: ...
    @property
    def causal(self) -> bool: ...
    def separate_file(
        self,
        source: Path,
        target: Path,
        *,
        layout: Literal["channels", "files"] = "channels",
        limits: RecordingLimits | None = None,
        name: str = "",
        progress: Callable[[float, float], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Written: ...


class NotCausalError(UnprocessableError):
    """The bundle needs to hear the end of a recording before it can say what its start was."""

    code = "model_not_causal"


class SeparateForm(BaseModel):
    """The fields beside the recording."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str | None, Field(description="A bundle's name, see /models.")] = None
    output: Annotated[
        Literal["channels", "files"],
        Field(description="One file with a channel per speaker, or a zip with a file per speaker."),
    ] = "channels"
    format: Annotated[Literal["wav", "flac"], Field(description="Of the file or files.")] = "wav"


@dataclass(frozen=True)
class Made:
    """The file that answers a call; `scale` is what all voices were multiplied with so that integers do not clip."""

    path: Path
    name: str
    kind: str
    scale: float

    def answer(self, workspace: Workspace, *, last: bool) -> FileAnswer:
        """The file, to be sent; see `FileAnswer`."""
        answer = FileAnswer(self.path, name=self.name, kind=self.kind, workspace=workspace, last=last)
        answer.headers["X-Voices-Scale"] = f"{self.scale:.6g}"
        return answer


class Separation:
    """Everything behind the separator's endpoints."""

    def __init__(self, separators: Mapping[str, Separator], settings: Settings) -> None:
        self.separators, self._settings = dict(separators), settings
        self._workspaces = Workspaces(settings.temporary)
        self._pool = Pool("separate", settings.separations, settings.queue_separations)
        # A line of their own: who waits for an answer never waits behind somebody's night of recordings.
        self.tasks = Tasks[Made](Pool("tasks", 1, settings.max_tasks), settings.max_tasks, settings.task_seconds)
        self.streams = Streams(settings.max_streams, settings.max_chunk_bytes, settings.stream_idle_seconds)

    async def answer(self, request: Request) -> Response:
        """Separate the recording of a request."""
        work, workspace = await self._read(request, self._pool.check_room)
        try:
            made = await self._pool.run(work)
        except BaseException:
            workspace.remove()
            raise
        return made.answer(workspace, last=True)

    async def submit(self, request: Request) -> Task[Made]:
        """Accept the recording of a request as a task."""
        work, workspace = await self._read(request, self.tasks.check_room)
        try:
            return self.tasks.submit(work, workspace)
        except BaseException:
            workspace.remove()
            raise

    def result(self, task_id: str) -> Response:
        """What a task made."""
        made, workspace = self.tasks.result(task_id)
        return made.answer(workspace, last=False)

    def choose(self, model: str | None, *, live: bool) -> Separator:
        """The bundle named, or the first that fits.

        Raises:
            UnavailableError: there is none.
            UnknownModelError: none has this name.
            NotCausalError: the one named cannot serve live streams.
        """
        if model is None:
            return self._default(live)
        if (found := self.separators.get(model)) is None:
            known = ", ".join(self.separators) or "nothing"
            raise UnknownModelError("unknown model", where="model", expected=f"one of {known}", got=model)
        if live and not found.causal:
            fitting = ", ".join(name for name, other in self.separators.items() if other.causal) or "nothing"
            raise NotCausalError("the model is not causal", where="model", expected=f"one of {fitting}", got=model)
        return found

    async def close(self) -> None:
        await self._pool.close()
        await self.tasks.close()
        self.streams.close()
        self._workspaces.close()

    def _default(self, live: bool) -> Separator:
        fitting = sorted(self.separators.values(), key=lambda separator: separator.causal is not live)
        if not fitting or (live and not fitting[0].causal):
            kind = "causal separator" if live else "separator"
            where = self._settings.bundles.name
            raise UnavailableError(f"no {kind} bundle is loaded", where=where, fix="Add one and restart.")
        return fitting[0]

    async def _read(self, request: Request, check_room: Callable[[], None]) -> tuple[Callable[[Job], Made], Workspace]:
        """The work that a request asks for, and the workspace where its recording lies."""
        check_room()
        self._default(live=False)
        workspace = self._workspaces.new()
        try:
            upload = await receive(request, "audio", _BARE_KINDS, workspace.path / "recording", self._settings.timeout_seconds)
            form = checked(SeparateForm, upload.fields)
            separator = self.choose(form.model, live=False)
        except BaseException:
            workspace.remove()
            raise
        return functools.partial(separate_upload, separator, upload, form, workspace, self._settings), workspace


def separate_upload(
    separator: Separator, upload: Upload, form: SeparateForm, workspace: Workspace, settings: Settings, job: Job
) -> Made:
    """The voices of one recording, as a file of its workspace; runs in a thread.

    Raises:
        InputError: the recording cannot be read, is too long, or cannot be separated.
        UnavailableError: the disk is full.
    """

    def report(done: float, total: float) -> None:
        job.progress = min(done / total, 1.0) if total > 0 else 0.0

    limits = RecordingLimits(seconds=settings.max_audio_seconds)
    with workspace.in_use() as folder, disk_errors():
        check_room_for_voices(upload.path, limits, len(separator.sources), form.format, settings.max_voices_bytes)
        target = folder / f"voices.{form.format}"
        written = separator.separate_file(
            upload.path,
            target,
            layout=form.output,
            limits=limits,
            name="audio",
            progress=report,
            cancelled=job.cancelled,
        )
        upload.path.unlink()
        stem, kind = display_name(upload.name), str(form.format)
        if form.output == "files":
            target, kind = _zipped(written.paths, folder / "voices.zip", stem), "zip"
        return Made(target, f"{stem}.{kind}", KINDS[kind], written.scale)


def check_room_for_voices(path: Path, limits: RecordingLimits, sources: int, format: str, most: int) -> None:
    """Refuse a recording whose voices would fill the disk, or do not fit the format.

    A recording of hours of silence at a high rate is a small file; its voices are not.

    Raises:
        TooLargeError: they would be larger than `most` bytes.
        UnprocessableError: FLAC does not hold them.
        InputError: the recording cannot be read, or is over its limits.
    """
    with Recording.open(path, "audio", limits) as recording:
        rate, size = recording.sample_rate, recording.frames * sources * _BYTES_A_SAMPLE
    if size > most:
        fix = "Send it at a lower sample rate, or in parts."
        expected = f"at most {most} bytes of voices"
        raise TooLargeError("the voices would be too large", where="audio", expected=expected, got=size, fix=fix)
    if format == "flac" and (rate > HIGHEST_FLAC_RATE or sources > MOST_FLAC_CHANNELS):
        expected = f"at most {HIGHEST_FLAC_RATE} Hz and {MOST_FLAC_CHANNELS} speakers"
        got = f"{rate} Hz, {sources} speakers"
        raise UnprocessableError("FLAC does not hold that", where="format", expected=expected, got=got, fix="Ask for wav.")


def display_name(given: str) -> str:
    """What the answer is called, after what the client calls the recording."""
    stem = PurePosixPath(given.replace("\\", "/")).stem
    clean = "".join(sign for sign in stem if sign.isprintable() and sign not in '/\\:*?"<>|').strip(" .")
    return f"{clean[:_LONGEST_NAME]}-voices" if clean else "voices"


def _zipped(files: Sequence[Path], target: Path, stem: str) -> Path:
    """All files in one archive; each is removed once it is in."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for number, file in enumerate(files, 1):
            archive.write(file, f"{stem}-{number}{file.suffix}")
            file.unlink()
    return target
