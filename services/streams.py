"""Live separation over a WebSocket: PCM in, the voices' PCM out, as soon as they are final.

    client opens   /separate/stream?sample_rate=8000&format=pcm_s16le&model=…
    server sends   {"type": "start", "model": …, "sources": ["one", "two"], "sample_rate": 8000, "format": …, "delay_samples": 16}
    client sends   binary messages of mono PCM, cut anywhere
    server sends   binary messages of PCM, the voices interleaved (s1 s2 s1 s2 …)
    client sends   {"type": "end"}
    server sends   what is left, {"type": "end", "samples": 48000}, and closes with 1000

An error is a text message in the one shape, ``{"error": {"code": …, "message": …, "request_id": …}}``, then the close: 1003 what
was sent is not such PCM, 1008 against the rules of the call, 1009 too large, 1011 our own mistake, 1013 come back later.

The network runs in threads, a short slice of one stream at a time, so that streams take turns. Nothing is read from a client
while its own work is pending: one that sends faster than it is served is slowed down by TCP. Keys and pages from elsewhere are
seen to before (`services.front`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from models.errors import InputError, TooLargeError, UnavailableError, shorten
from models.runtime import threads
from services import metrics
from services.batching import BusyError
from services.cors import ForeignPageError as ForeignPageError  # what may refuse a stream before it is opened
from services.http import error_body, error_fields, request_id, status_of
from services.json_body import WrongKindError, checked, encode
from services.keys import SUBPROTOCOL
from services.record import note

log = logging.getLogger("convoy.streams")

Floats = NDArray[np.float32]
Answer = TypeVar("Answer")

_SLICE_SECONDS = 0.25  # of audio given to the network at a time
_LONGEST_REASON = 100  # characters; a close frame holds 123 bytes


class Stream(Protocol):
    """A live separation, as the predictor gives it."""

    @property
    def delay_samples(self) -> int: ...
    def push(self, samples: Floats) -> Floats: ...
    def flush(self) -> Floats: ...


class StreamingSeparator(Protocol):
    """What live separation needs of `models.separator.Separator`."""

    @property
    def spec(self) -> Any: ...
    @property
    def sources(self) -> Sequence[str]: ...
    def stream(self, sample_rate: int) -> Stream: ...


class StreamForm(BaseModel):
    """The query of ``/separate/stream``."""

    model_config = ConfigDict(extra="forbid")

    sample_rate: int = 8000
    format: Literal["pcm_s16le", "pcm_f32le"] = "pcm_s16le"
    model: Annotated[str | None, Field(json_schema_extra={"x-bundles": "separator"})] = None


class NotPcmError(WrongKindError):
    """What a client streams is not what it announced."""

    code = "stream_malformed"


class IdleError(InputError):
    """The client has been silent for too long."""

    code, status = "stream_idle", 408


class Pcm:
    """Samples from bytes cut anywhere, and bytes from samples; 16 bits stand for -1 to 1."""

    def __init__(self, kind: str) -> None:
        self._type = np.dtype("<i2" if kind == "pcm_s16le" else "<f4")
        self._rest = b""

    @property
    def rest(self) -> int:
        """Bytes of a sample that is not complete yet."""
        return len(self._rest)

    def read(self, data: bytes) -> Floats:
        """All samples that are complete.

        Raises:
            NotPcmError: a sample is not a finite number.
        """
        data = self._rest + data
        whole = len(data) - len(data) % self._type.itemsize
        self._rest = data[whole:]
        samples = np.frombuffer(data[:whole], self._type)
        if self._type.kind == "i":
            return samples.astype(np.float32) / np.float32(32768)
        if not np.isfinite(samples).all():
            raise NotPcmError("a sample is not a finite number", where="message", expected="samples around -1 to 1")
        return samples.astype(np.float32)

    def write(self, voices: Floats) -> bytes:
        """`voices` (sources, samples) interleaved."""
        interleaved = np.ascontiguousarray(voices.T)
        if self._type.kind == "i":
            interleaved = np.clip(np.rint(interleaved * np.float32(32768)), -32768, 32767)
        return interleaved.astype(self._type).tobytes()


class Streams:
    """All live streams of a process.

    Args:
        most: streams at once.
        chunk_bytes: of one message.
        idle_seconds: of silence, and of not reading what is sent, after which a client is let go.
    """

    def __init__(self, most: int, chunk_bytes: int, idle_seconds: float) -> None:
        self._most, self._chunk_bytes, self._idle = most, chunk_bytes, idle_seconds
        self._threads = ThreadPoolExecutor(min(most, threads()), thread_name_prefix="stream")
        self._open = 0

    @property
    def open(self) -> int:
        """Streams that hold a place now."""
        return self._open

    async def serve(self, socket: WebSocket, choose: Callable[[str | None], StreamingSeparator]) -> None:
        """Talk to one client until one of the two ends it; `choose` finds the separator by name."""
        await socket.accept(SUBPROTOCOL if SUBPROTOCOL in socket.scope["subprotocols"] else None)
        try:
            with self._place():
                form = checked(StreamForm, dict(socket.query_params))
                await self._talk(socket, form, choose(form.model))
        except WebSocketDisconnect:
            return
        except Exception as error:  # noqa: BLE001 (whatever it was, the client is told)
            await _fail(socket, error)

    def close(self) -> None:
        """Let the threads go; the server has closed the sockets by then."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if self._open >= self._most:
            raise BusyError("too many live streams", expected=f"at most {self._most}", retry_after=10)
        self._open += 1
        metrics.streams(+1)
        try:
            yield
        finally:
            self._open -= 1
            metrics.streams(-1)

    async def _talk(self, socket: WebSocket, form: StreamForm, separator: StreamingSeparator) -> None:
        stream = await self._run(lambda: separator.stream(form.sample_rate))
        given = {"model": separator.spec.name, "sources": list(separator.sources), "sample_rate": form.sample_rate}
        start = {"type": "start", **given, "format": form.format, "delay_samples": stream.delay_samples}
        await self._send(socket, start)
        pcm, sent, heard = Pcm(form.format), 0, 0
        async for chunk in self._chunks(socket):
            samples = pcm.read(chunk)
            heard += len(samples)
            metrics.audio_seconds(len(samples) / form.sample_rate)
            note(model=separator.spec.name, audio_seconds=round(heard / form.sample_rate, 3))
            for piece in _slices(samples, form.sample_rate):
                sent += await self._send_voices(socket, pcm, await self._run(partial(stream.push, piece)))
        sent += await self._send_voices(socket, pcm, await self._run(stream.flush))
        incomplete = {"dropped_bytes": pcm.rest} if pcm.rest else {}
        await self._send(socket, {"type": "end", "samples": sent, **incomplete})
        await socket.close()

    async def _run(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _chunks(self, socket: WebSocket) -> AsyncIterator[bytes]:
        """The client's binary messages, until it says that it has ended.

        Raises:
            WebSocketDisconnect: it vanished.
            IdleError: it fell silent.
            TooLargeError: a message is over the limit.
            NotPcmError: a text is not the one that ends the stream.
        """
        while True:
            try:
                async with asyncio.timeout(self._idle):
                    message = await socket.receive()
            except TimeoutError:
                raise IdleError("nothing was sent for too long", expected=f"a message within {self._idle:g} s") from None
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code") or 1006)
            if (data := message.get("bytes")) is None:
                _check_end(message.get("text") or "")
                return
            if len(data) > self._chunk_bytes:
                limit = f"at most {self._chunk_bytes} bytes"
                raise TooLargeError("the message is too large", where="message", expected=limit, got=len(data))
            yield data

    async def _send_voices(self, socket: WebSocket, pcm: Pcm, voices: Floats) -> int:
        samples = int(voices.shape[1])
        if samples:
            async with self._reading():
                await socket.send_bytes(pcm.write(voices))
        return samples

    async def _send(self, socket: WebSocket, content: Mapping[str, object]) -> None:
        async with self._reading():
            await socket.send_text(encode(content).decode())

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        """The client has to take what it gets; one that does not holds a place for nothing."""
        try:
            async with asyncio.timeout(self._idle):
                yield
        except TimeoutError:
            raise WebSocketDisconnect(1006, "the client does not read") from None


def _slices(samples: Floats, sample_rate: int) -> Iterator[Floats]:
    size = max(1, int(sample_rate * _SLICE_SECONDS))
    return (samples[start : start + size] for start in range(0, len(samples), size))


def _check_end(text: str) -> None:
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(text)
        if isinstance(content, dict) and content.get("type") in {"end", "flush"}:
            return
    expected = 'binary PCM, or {"type": "end"}'
    raise NotPcmError("a text that means nothing here", where="message", expected=expected, got=shorten(text, 80))


async def _fail(socket: WebSocket, error: Exception) -> None:
    """Say what is wrong and close; log it if it is ours."""
    if status_of(error) == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("stream %s failed", request_id.get(), exc_info=error)
    fields = error_fields(error)
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # it is gone already
        if socket.application_state == WebSocketState.CONNECTED:
            await socket.send_text(error_body(error).decode())
            await socket.close(
                _close_code(error), shorten(fields["message"], _LONGEST_REASON).encode("ascii", "replace").decode()
            )


def _close_code(error: Exception) -> int:
    match error:
        case TooLargeError():
            return 1009
        case WrongKindError():
            return 1003
        case UnavailableError():
            return 1013
        case InputError():
            return 1008
        case _:
            return 1011
