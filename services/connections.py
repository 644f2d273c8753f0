"""Connections, before their bytes are requests: uvicorn's own protocol, with bounds that it does not have.

Uvicorn waits for the head of a request for ever, once a byte of it has come, and for any number of clients at once; a client that
takes no answer holds it, and what made it, for ever too. Here

- the head of a request has to arrive within ``CONVOY_HEAD_SECONDS``, else the connection is closed, with 408;
- a worker holds ``CONVOY_MAX_CONNECTIONS`` at most: past that, the one that has waited longest for a request makes room, and if
  all are at work the new one gets 503;
- a client that takes nothing of what it is sent for ``CONVOY_TIMEOUT_SECONDS`` is cut off;
- bytes that are not HTTP get their 400 in the one shape of errors.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from models.errors import InputError, UnavailableError
from services import metrics
from services.http import error_body, error_headers, status_of
from services.record import new_id
from services.settings import Settings


class NotHttpError(InputError):
    """What came is not a request."""

    code = "http_malformed"


class SlowHeadError(InputError):
    """The head of the request did not arrive within the time limit."""

    code, status = "head_too_slow", 408


class ConnectionsError(UnavailableError):
    """There are as many connections as there may be."""

    code = "too_many_connections"


def guard(settings: Settings) -> None:
    """Let uvicorn, which BentoML starts, talk through the guarded protocol."""
    kinds: dict[str, Any] = HTTP_PROTOCOLS
    kinds["auto"] = guarded(AutoHTTPProtocol, settings)


def guarded(protocol: type[asyncio.Protocol], settings: Settings) -> type[asyncio.Protocol]:
    """One of uvicorn's protocols with bounds."""
    bounds = {"head_seconds": settings.head_seconds, "most": settings.max_connections, "patience": settings.timeout_seconds}
    return type("GuardedProtocol", (_Guard, protocol), bounds)


class _Guard(asyncio.Protocol):
    """Mixed into uvicorn's protocols, in front of them; the first attributes are theirs."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    connections: set[Any]
    cycle: Any

    head_seconds: float
    patience: float
    most: int
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _begun = False  # the first byte of a head has come
    _upgraded = False
    _since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._since = self.loop.time()
        self._await_head()
        if len(self.connections) > self.most:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._upgraded:
            return
        if self._waits():
            self._begun = True
            self._await_head()
        else:
            self._stop_head_timer()
            self._begun, self._since = False, self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, *request: Any) -> None:
        self._upgraded = True
        self._stop_timers()
        super().handle_websocket_upgrade(*request)  # type: ignore[misc]

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self._write_timer or self.loop.call_later(self.patience, self._cut)

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Uvicorn's answer to what is not HTTP."""
        error = NotHttpError("not a request that can be understood", where="head or body", expected="HTTP/1.1")
        self._refuse("malformed", error)

    def _waits(self) -> bool:
        """For a request: the last one has its answer."""
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_timer = self._head_timer or self.loop.call_later(self.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self._waits():
            return
        limit = f"at most {self.head_seconds:g} s"
        error = SlowHeadError("the head of the request did not arrive within the time limit", expected=limit)
        self._refuse("head_late", error if self._begun else None)

    def _make_room(self) -> None:
        others = [other for other in self.connections if other is not self and isinstance(other, _Guard) and other._waits()]
        if others:
            oldest = min(others, key=lambda other: other._since)
            oldest._refuse("crowded", None)
        else:
            error = ConnectionsError("too many connections", expected=f"at most {self.most}", fix="Try again in a moment.")
            self._refuse("crowded", error)

    def _refuse(self, reason: str, error: Exception | None) -> None:
        """Close, with an answer where there is an error and none has begun."""
        if self.transport.is_closing():
            return
        metrics.refused(reason)
        self._stop_timers()
        if error is not None and (self.cycle is None or self.cycle.response_complete or not self.cycle.response_started):
            self.transport.write(_answer(error))
        self.transport.close()
        if error is None and self.transport.get_write_buffer_size():  # of an answer that nobody takes
            self.transport.abort()

    def _cut(self) -> None:
        metrics.refused("not_read")
        self.transport.abort()

    def _stop_timers(self) -> None:
        self._stop_head_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _answer(error: Exception) -> bytes:
    """An error's whole answer in bytes, before there is a request that could be answered."""
    identity = new_id()
    body = error_body(error, identity)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", identity.encode()),
        (b"connection", b"close"),
        *error_headers(error),
    ]
    status = HTTPStatus(status_of(error))
    head = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, status.phrase.encode(), head, body)
