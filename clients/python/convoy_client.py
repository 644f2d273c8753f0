"""Convoy's HTTP calls from Python: tags for texts, voices of recordings, label maps of volumes, each from file to file.

    from convoy_client import Convoy

    with Convoy("http://127.0.0.1:3000", key="…") as convoy:
        for text in convoy.tag(["Ada Lovelace lived in London.", "我爱北京天安门。"]):
            print([(token.text, token.label) for token in text.tokens])
        convoy.separate("talk.wav", "voices.wav")
        task = convoy.submit_segment("scan.nii.gz", model="segmenter-hippocampus")   # answers at once; keep task.id
        task.wait(progress=print)
        task.fetch("labels.nii.gz")

This file is all there is: copy it, or ``pip install`` the folder that it lies in. It needs httpx; `Convoy.stream` also httpx-ws.

Errors are `ServiceError` (what the service said: `code`, `message`, `request_id`, `status`), `TaskError` (what a task failed
with) and httpx's own where there was no answer. A busy service (429), and one that starts or stops (503), is asked again after
the time that it names, `retries` times. Files are sent from disk and answers written to disk piece by piece; an answer is there
whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx

__version__ = "0.1.0"
__all__ = [
    "Convoy",
    "ConvoyError",
    "LiveStream",
    "ServiceError",
    "Span",
    "Tagged",
    "Task",
    "TaskError",
    "TaskStatus",
    "Untagged",
]

Source = str | os.PathLike[str]
Progress = Callable[[str, float], object]
"""Called with what is being done, ``upload``, ``work`` or ``download``, and the share of it that is done, 0 to 1."""

_AGAIN = {429, 503}
_LONGEST_WAIT = 60.0
_PIECE = 256 * 1024


class ConvoyError(Exception):
    """Base of the errors here.

    Attributes:
        code: for programs, such as ``audio_unreadable``.
        message: what is wrong, where, what was expected, what came, what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class ServiceError(ConvoyError):
    """The service refused, or failed.

    Attributes:
        status: HTTP's.
        request_id: which the service's log has too.
        retry_after: seconds after which it may go better, if the service said so.
    """

    def __init__(self, status: int, code: str, message: str, request_id: str = "", retry_after: float | None = None) -> None:
        super().__init__(code, message)
        self.status, self.request_id, self.retry_after = status, request_id, retry_after


class TaskError(ConvoyError):
    """A task failed, or was cancelled; there is no result."""


@dataclass(frozen=True)
class Span:
    """A token or a span of tokens: ``text`` is what stands between ``start`` and ``end`` (code points) of the text."""

    text: str
    start: int
    end: int
    label: str
    confidence: float


@dataclass(frozen=True)
class Tagged:
    """One text's tags."""

    model: str
    language: str
    tokens: list[Span]
    spans: list[Span]


@dataclass(frozen=True)
class Untagged:
    """Why one text has no tags, where others of its call have."""

    code: str
    message: str
    tokens: list[Span] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)


@dataclass(frozen=True)
class TaskStatus:
    """What became of a task; `position` is its place in line while it is pending."""

    status: Literal["pending", "in_progress", "completed", "failed", "canceled"]
    progress: float
    position: int | None = None
    error: TaskError | None = None

    @property
    def over(self) -> bool:
        return self.status in {"completed", "failed", "canceled"}


class Convoy:
    """A service; to be closed, or used as a context.

    Args:
        url: where it answers.
        key: an API key, where it asks for one.
        timeout: seconds that an answer may take.
        retries: how often a busy service is asked again.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:3000", key: str | None = None, *, timeout: float = 660.0, retries: int = 5
    ) -> None:
        self._headers = {"X-API-Key": key} if key else {}
        self._http = httpx.Client(base_url=url, headers=self._headers, timeout=httpx.Timeout(timeout, connect=10.0))
        self._retries = retries

    def __enter__(self) -> Convoy:
        return self

    def __exit__(self, *about: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()

    def models(self) -> list[dict[str, Any]]:
        """The bundles that answer: ``name``, ``task``, and what their task has."""
        found: list[dict[str, Any]] = self._json("GET", "/models")["models"]
        return found

    def tag(self, texts: Sequence[str], model: str | None = None) -> list[Tagged | Untagged]:
        """Tags of texts, in order; by default the model is chosen per text by its script.

        Raises:
            ServiceError: none of the texts could be tagged.
        """
        body = {"texts": list(texts), **({"model": model} if model else {})}
        return [_tagged(result) for result in self._json("POST", "/tag", json=body)["results"]]

    def separate(
        self,
        recording: Source,
        target: Source,
        *,
        model: str | None = None,
        output: Literal["channels", "files"] = "channels",
        format: Literal["wav", "flac"] = "wav",
        progress: Progress | None = None,
    ) -> Path:
        """The voices of a recording: a file with a channel per speaker, or a zip with a file per speaker; see ``/docs.json``."""
        fields = _given(model=model, output=output, format=format)
        return self._file("/separate", "audio", recording, fields, Path(target), progress)

    def segment(
        self,
        volume: Source,
        target: Source,
        *,
        model: str | None = None,
        output: Literal["labels", "preview", "summary"] = "labels",
        format: str = "same",
        spacing: tuple[float, float, float] | None = None,
        flips: str = "",
        progress: Progress | None = None,
    ) -> Path:
        """The label map of a volume on its own grid, a picture of it, or how much there is of each class; see ``/docs.json``."""
        fields = _given(model=model, output=output, format=format, spacing=_comma(spacing), flips=flips)
        return self._file("/segment", "volume", volume, fields, Path(target), progress)

    def submit_separate(
        self,
        recording: Source,
        *,
        model: str | None = None,
        output: Literal["channels", "files"] = "channels",
        format: Literal["wav", "flac"] = "wav",
        progress: Progress | None = None,
    ) -> Task:
        """As `separate`, for work longer than a request: answers when the recording is there."""
        return self._submit("separate", "audio", recording, _given(model=model, output=output, format=format), progress)

    def submit_segment(
        self,
        volume: Source,
        *,
        model: str | None = None,
        output: Literal["labels", "preview", "summary"] = "labels",
        format: str = "same",
        spacing: tuple[float, float, float] | None = None,
        flips: str = "",
        progress: Progress | None = None,
    ) -> Task:
        """As `segment`, for work longer than a request: answers when the volume is there."""
        fields = _given(model=model, output=output, format=format, spacing=_comma(spacing), flips=flips)
        return self._submit("segment", "volume", volume, fields, progress)

    def task(self, kind: Literal["separate", "segment"], task_id: str) -> Task:
        """A task that was submitted before, perhaps by a program that is no more."""
        return Task(self, kind, task_id)

    @contextlib.contextmanager
    def stream(
        self, sample_rate: int = 8000, format: Literal["pcm_s16le", "pcm_f32le"] = "pcm_s16le", model: str | None = None
    ) -> Iterator[LiveStream]:
        """Live separation: send PCM, get the voices' PCM a few milliseconds later. Needs httpx-ws."""
        import httpx_ws

        route, query = "/separate/stream", {"sample_rate": str(sample_rate), "format": format, **_given(model=model)}
        session: httpx_ws.WebSocketSession
        try:
            with httpx_ws.connect_ws(route, self._http, params=query) as session:
                yield LiveStream(session)
        except httpx_ws.WebSocketUpgradeError as error:  # which has no body any more: a plain request is told why
            told = _error(self._http.get(route))
            raise (
                told
                if told.status == error.response.status_code
                else ServiceError(error.response.status_code, "stream_refused", error.response.reason_phrase)
            ) from None

    # ---- how it is done -----------------------------------------------------------------------------------------------------

    def _json(self, method: str, path: str, **what: Any) -> dict[str, Any]:
        with self._answer(lambda: self._http.build_request(method, path, **what)) as response:
            response.read()
            content: dict[str, Any] = response.json()
            return content

    def _submit(self, kind: str, name: str, source: Source, fields: Mapping[str, str], progress: Progress | None) -> Task:
        with self._answer(lambda: self._upload(f"/{kind}/submit", name, Path(source), fields, progress)) as response:
            response.read()
            return Task(self, kind, str(response.json()["task_id"]))

    def _file(
        self, path: str, name: str, source: Source, fields: Mapping[str, str], target: Path, progress: Progress | None
    ) -> Path:
        with self._answer(lambda: self._upload(path, name, Path(source), fields, progress)) as response:
            return _save(response, target, progress)

    def _upload(self, path: str, name: str, source: Path, fields: Mapping[str, str], progress: Progress | None) -> httpx.Request:
        """A form that is read from disk as it is sent; its length is known before."""
        mark = secrets.token_hex(16)
        parts = [f'--{mark}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{text}\r\n' for key, text in fields.items()]
        filename = source.name.translate({0x22: "%22", 0x0D: "%0D", 0x0A: "%0A"})
        about = f'--{mark}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
        head = ("".join(parts) + about + "Content-Type: application/octet-stream\r\n\r\n").encode()
        tail = f"\r\n--{mark}--\r\n".encode()
        size = source.stat().st_size
        headers = {
            "Content-Type": f"multipart/form-data; boundary={mark}",
            "Content-Length": str(len(head) + size + len(tail)),
        }

        def body() -> Iterator[bytes]:
            yield head
            sent = 0
            with source.open("rb") as file:
                while piece := file.read(min(_PIECE, size - sent)):
                    yield piece
                    sent += len(piece)
                    _report(progress, "upload", sent / size)
            yield tail

        return self._http.build_request("POST", path, content=body(), headers=headers)

    @contextlib.contextmanager
    def _answer(self, build: Callable[[], httpx.Request]) -> Iterator[httpx.Response]:
        """A good answer; a busy service is asked again with a request that is built anew."""
        for attempt in range(self._retries + 1):
            response = self._http.send(build(), stream=True)
            try:
                if response.is_success:
                    yield response
                    return
                response.read()
                error = _error(response)
            finally:
                response.close()
            if response.status_code not in _AGAIN or error.retry_after is None or attempt == self._retries:
                raise error
            time.sleep(min(error.retry_after, _LONGEST_WAIT))


@dataclass(frozen=True)
class Task:
    """Work that the service has accepted.

    Attributes:
        kind: ``separate`` or ``segment``.
        id: to find it again with: ``convoy.task(kind, id)``. Nobody can guess it.
    """

    _convoy: Convoy = field(repr=False)
    kind: str
    id: str

    def status(self) -> TaskStatus:
        """How far it is."""
        return _status(self._convoy._json("GET", f"/{self.kind}/status", params={"task_id": self.id}))

    def wait(self, *, seconds: float | None = None, every: float = 1.0, progress: Progress | None = None) -> Task:
        """Wait until it is completed.

        Raises:
            TaskError: it failed, or was cancelled.
            TimeoutError: it is not over after `seconds`.
        """
        began = time.monotonic()
        while not (found := self.status()).over:
            _report(progress, "work", found.progress)
            if seconds is not None and time.monotonic() - began > seconds:
                raise TimeoutError(f"task {self.id} is {found.status} after {seconds:g} s")
            time.sleep(every)
        if found.error is not None:
            raise found.error
        if found.status == "canceled":
            raise TaskError("task_canceled", "the task was cancelled. Submit it again.")
        _report(progress, "work", 1.0)
        return self

    def fetch(self, target: Source, *, progress: Progress | None = None) -> Path:
        """Its result, as a file.

        Raises:
            ServiceError: it is not completed, its time is over, or it failed.
        """
        http = self._convoy._http
        with self._convoy._answer(
            lambda: http.build_request("GET", f"/{self.kind}/get", params={"task_id": self.id})
        ) as response:
            return _save(response, Path(target), progress)

    def cancel(self) -> TaskStatus:
        """Stop it; one that is over stays as it is."""
        return _status(self._convoy._json("PUT", f"/{self.kind}/cancel", params={"task_id": self.id}))


class LiveStream:
    """An open stream: `send` PCM as it comes, read the voices from `receive`; made by `Convoy.stream`.

    Attributes:
        sources: names of the voices, which lie interleaved in what comes back.
        delay_samples: by how much they are behind.
    """

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        start = self._message()
        assert isinstance(start, dict)
        self.sources: list[str] = start["sources"]
        self.delay_samples = int(start["delay_samples"])

    def send(self, samples: bytes) -> None:
        """Mono PCM, cut anywhere."""
        self._socket.send_bytes(samples)

    def end(self) -> None:
        """There is no more to send."""
        self._socket.send_text('{"type": "end"}')

    def receive(self) -> bytes:
        """Voices that are final; empty when the stream has ended."""
        message = self._message()
        return message if isinstance(message, bytes) else b""

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.receive, b"")

    def _message(self) -> bytes | dict[str, Any]:
        event = self._socket.receive()
        if isinstance(event.data, (bytes, bytearray)):
            return bytes(event.data)
        content: dict[str, Any] = json.loads(event.data)
        if error := content.get("error"):
            raise ServiceError(0, error["code"], error["message"], error["request_id"])
        return content


def _tagged(result: Mapping[str, Any]) -> Tagged | Untagged:
    if error := result.get("error"):
        return Untagged(error["code"], error["message"])
    tokens, spans = ([_span(each) for each in result[name]] for name in ("tokens", "spans"))
    return Tagged(result["model"], result["language"], tokens, spans)


def _span(content: Mapping[str, Any]) -> Span:
    return Span(content["text"], content["start"], content["end"], content["label"], content["confidence"])


def _status(content: Mapping[str, Any]) -> TaskStatus:
    error = content.get("error")
    failed = TaskError(error["code"], error["message"]) if error else None
    return TaskStatus(content["status"], content["progress"], content.get("position"), failed)


def _error(response: httpx.Response) -> ServiceError:
    """What the service said; or a proxy before it, in a shape of its own."""
    wait = response.headers.get("retry-after", "")
    after = float(wait) if wait.isdecimal() else None
    try:
        error = response.json()["error"]
        fields = error["code"], error["message"], error["request_id"]
    except (ValueError, KeyError, TypeError):
        fields = "http_error", response.text[:500] or response.reason_phrase, response.headers.get("x-request-id", "")
    return ServiceError(response.status_code, *fields, retry_after=after)


def _save(response: httpx.Response, target: Path, progress: Progress | None) -> Path:
    """Write an answer beside its place, and put it there when it is complete."""
    size = int(response.headers.get("content-length", 0))
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as file:
            written = 0
            for piece in response.iter_bytes(_PIECE):
                written += file.write(piece)
                _report(progress, "download", written / size if size else 0.0)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _report(progress: Progress | None, what: str, share: float) -> None:
    if progress is not None:
        progress(what, share)


def _given(**fields: str | None) -> dict[str, str]:
    return {name: text for name, text in fields.items() if text}


def _comma(numbers: tuple[float, float, float] | None) -> str | None:
    return None if numbers is None else ",".join(f"{number!r}" for number in numbers)
