"""The work behind the separator's endpoints: which bundle, where the files lie, how much at once.

What can be wrong with a recording's bytes is said by the predictor, which looks at them and not at what the client calls them.

Bundles whose network is causal serve live streams; the others serve files, which a causal one does too when it is named or alone.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from models.errors import TooLargeError, UnavailableError, UnprocessableError
from models.separator.audio import Limits as RecordingLimits
from models.separator.audio import Recording
from models.separator.writing import HIGHEST_FLAC_RATE, MOST_FLAC_CHANNELS
from services import metrics
from services.file_calls import FileCalls, display_stem
from services.pool import Job
from services.record import note
from services.service import UnknownModelError
from services.settings import Settings
from services.streams import StreamingSeparator, Streams
from services.uploads import Upload
from services.workspace import Made, Workspace, disk_errors

_BARE_KINDS = ("audio/", "application/ogg", "application/octet-stream")
KINDS = {"wav": "audio/wav", "flac": "audio/flac", "zip": "application/zip"}
"""Media types of the answers."""

_BYTES_A_SAMPLE = 4


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

    model: Annotated[
        str | None, Field(description="A bundle's name, see /models.", json_schema_extra={"x-bundles": "separator"})
    ] = None
    output: Annotated[
        Literal["channels", "files"],
        Field(description="One file with a channel per speaker, or a zip with a file per speaker."),
    ] = "channels"
    format: Annotated[Literal["wav", "flac"], Field(description="Of the file or files.")] = "wav"


class Separation(FileCalls):
    """Everything behind the separator's endpoints."""

    def __init__(self, separators: Mapping[str, Separator], settings: Settings) -> None:
        at_once, waiting = settings.separations, settings.queue_separations
        super().__init__("separate", "audio", _BARE_KINDS, settings, at_once=at_once, waiting=waiting)
        self.separators = dict(separators)
        self.streams = Streams(settings.max_streams, settings.max_chunk_bytes, settings.stream_idle_seconds)

    def require_bundle(self) -> None:
        self._default(live=False)

    def work(self, upload: Upload, workspace: Workspace) -> Callable[[Job], Made]:
        form = upload.form(SeparateForm)
        if "model" in upload.queried:  # what is wrong there is told, also where the form names another
            self.choose(upload.queried["model"], live=False)
        separator = self.choose(form.model, live=False)
        return functools.partial(separate_upload, separator, upload, form, workspace, self._settings)

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
        self.streams.close()
        await super().close()

    def _default(self, live: bool) -> Separator:
        fitting = sorted(self.separators.values(), key=lambda separator: separator.causal is not live)
        if not fitting or (live and not fitting[0].causal):
            kind = "causal separator" if live else "separator"
            where = self._settings.bundles.name
            raise UnavailableError(f"no {kind} bundle is loaded", where=where, fix="Add one and restart.")
        return fitting[0]


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
        seconds = check_room_for_voices(upload.path, limits, len(separator.sources), form.format, settings.max_voices_bytes)
        note(model=separator.spec.name, audio_seconds=round(seconds, 3))
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
        metrics.audio_seconds(seconds)
        stem = "-".join(filter(None, (display_stem(upload.name), "voices")))
        kind = str(form.format)
        if form.output == "files":
            target, kind = _zipped(written.paths, folder / "voices.zip", stem), "zip"
        return Made(target, f"{stem}.{kind}", KINDS[kind], {"X-Voices-Scale": f"{written.scale:.6g}"})


def check_room_for_voices(path: Path, limits: RecordingLimits, sources: int, format: str, most: int) -> float:
    """Refuse a recording whose voices would fill the disk, or do not fit the format; else say how many seconds it lasts.

    A recording of hours of silence at a high rate is a small file; its voices are not.

    Raises:
        TooLargeError: they would be larger than `most` bytes.
        UnprocessableError: FLAC does not hold them.
        InputError: the recording cannot be read, or is over its limits.
    """
    with Recording.open(path, "audio", limits) as recording:
        rate, size, seconds = recording.sample_rate, recording.frames * sources * _BYTES_A_SAMPLE, recording.seconds
    if size > most:
        fix = "Send it at a lower sample rate, or in parts."
        expected = f"at most {most} bytes of voices"
        raise TooLargeError("the voices would be too large", where="audio", expected=expected, got=size, fix=fix)
    if format == "flac" and (rate > HIGHEST_FLAC_RATE or sources > MOST_FLAC_CHANNELS):
        expected = f"at most {HIGHEST_FLAC_RATE} Hz and {MOST_FLAC_CHANNELS} speakers"
        got = f"{rate} Hz, {sources} speakers"
        raise UnprocessableError("FLAC does not hold that", where="format", expected=expected, got=got, fix="Ask for wav.")
    return seconds


def _zipped(files: Sequence[Path], target: Path, stem: str) -> Path:
    """All files in one archive; each is removed once it is in."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for number, file in enumerate(files, 1):
            archive.write(file, f"{stem}-{number}{file.suffix}")
            file.unlink()
    return target
