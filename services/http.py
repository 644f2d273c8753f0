"""What stands between the network and the endpoints: limits, request ids, and one shape for every error.

    client → Front (pure ASGI, outermost) → BentoML's app → an endpoint → an answer, or an exception
    client ← Front, which writes every error itself:  {"error": {"code": …, "message": …, "request_id": …}}

`Front` wraps the whole application (in `services.service`) instead of being added with ``service.add_asgi_middleware``:
BentoML puts such middleware inside its own, which then answers 429 and 504 in shapes of its own, keeps a timer per request for a
minute after the answer, and makes a Prometheus series of every path anybody ever asked for, so that memory grows with the number
of distinct paths.

Whose fault an error is, is decided where it happens: `services.json_body` turns what is wrong with a body into `InputError`;
whatever else an endpoint raises is the service's own fault, also a pydantic ``ValidationError``, which BentoML alone would report
as the client's. Bytes that are not HTTP at all are refused by uvicorn, with 400 and plain text, before any of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextvars import ContextVar
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from models.errors import ConvoyError, InputError, TooLargeError, UnavailableError, shorten
from services.batching import BusyError
from services.json_body import encode
from services.settings import Limits, Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("convoy.http")
request_id: ContextVar[str] = ContextVar("request_id", default="-")

_PROBES = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_KEPT_HEADERS = frozenset({b"allow", b"retry-after", b"upgrade", b"www-authenticate"})
_DRAIN_BYTES, _DRAIN_SECONDS = 64 * 1024 * 1024, 5.0
_EXCHANGE = "convoy.exchange"
_OUR_FAULT = "Something went wrong on our side. The service's log has the details under this request id."


class TooSlowError(UnavailableError):
    """The answer was not ready within the time limit."""

    code, status = "too_slow", 504


class SlowClientError(InputError):
    """The body did not arrive within the time limit."""

    code, status = "body_too_slow", 408


def status_of(error: BaseException) -> int:
    """HTTP status of an exception: its own if it is a client's mistake or a known state of the service, else 500."""
    if isinstance(error, InputError | UnavailableError):
        return error.status
    return error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR


def error_fields(error: BaseException) -> dict[str, str]:
    """``code`` and ``message`` of an exception for the client; of our own bugs no more than that there is one."""
    if isinstance(error, InputError | UnavailableError):
        return {"code": error.code, "message": error.message}
    if isinstance(error, HTTPException):
        return {"code": _code(error.status_code), "message": str(error.detail)}
    return {"code": "internal", "message": _OUR_FAULT}


def worst(errors: Iterable[Exception]) -> Exception:
    """The exception that decides the status of a call in which nothing succeeded: one of ours (5xx) before a client's (4xx)."""
    return max(errors, key=lambda error: status_of(error) >= HTTPStatus.INTERNAL_SERVER_ERROR)


def _code(status: int) -> str:
    try:
        return HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")
    except ValueError:
        return "error"


def _status_error(status: int, scope: Scope) -> Exception:
    """What we say when something inside answered with a bare error status, as BentoML and Starlette do."""
    route = f"{scope['method']} {shorten(scope['path'])}"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _Unexplained(status)
    messages = {
        404: f"There is nothing at {route}. The routes are listed in /docs.json.",
        405: f"{route} is not allowed. The Allow header names the methods that are.",
    }
    return HTTPException(status, messages.get(status, f"{_code(status)}: {route}"))


class _Unexplained(Exception):
    """A 5xx from inside that came without an exception."""


class Front:
    """Pure ASGI middleware around everything: request id, counted body, time limit, load limit, error shape.

    WebSockets get a request id too; their limits are the endpoint's own (`services.streams`).

    Args:
        app: what answers.
        settings: the limits.
        routed: whether some route answers this scope's path; all others are refused here, before anything counts them.
        limits: by path, of routes that grant more or less than the settings say for all.
    """

    def __init__(
        self,
        app: App,
        settings: Settings,
        routed: Callable[[Scope], bool] = lambda scope: True,
        limits: Mapping[str, Limits] = MappingProxyType({}),
    ) -> None:
        self.app, self.settings, self.routed, self.limits = app, settings, routed, limits
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = request_id.set(_accepted_id(dict(scope["headers"]).get(b"x-request-id", b"")))
        try:
            await self.app(scope, receive, send)
        finally:
            request_id.reset(token)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(scope, receive, send, self.limits.get(scope["path"], self.settings.limits))
        token = request_id.set(exchange.id)
        counted = scope["path"] not in _PROBES
        self._held += counted
        try:
            refusal = self._refusal(scope) or exchange.declared_too_large()
            await (exchange.fail(refusal) if refusal else exchange.run(self.app))
        finally:
            self._held -= counted
            request_id.reset(token)

    def _refusal(self, scope: Scope) -> Exception | None:
        if not self.routed(scope):
            return _status_error(404, scope)
        if self._held > self.settings.max_requests and scope["path"] not in _PROBES:
            return BusyError("too many requests at once", expected=f"at most {self.settings.max_requests}")
        return None


class _Exchange:
    """One request and its answer.

    `error` is where the application leaves the exception behind an error status.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self.scope, self.limits = scope, limits
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.id = _accepted_id(self.headers.get(b"x-request-id", b""))
        self.error: BaseException | None = None
        self._receive, self._send = receive, send
        self._asked = False  # for the body: from then on a client that waits for "100 Continue" sends it
        self._received = 0
        self._complete = False  # the whole body has arrived
        self._answered = False  # the answer has begun
        self._failed: Message | None = None  # the start of an error answer from inside, held back
        self._gone = asyncio.Event()  # the client hung up
        self._watcher: asyncio.Task[None] | None = None
        scope[_EXCHANGE] = self

    async def run(self, app: App) -> None:
        """Let `app` answer, within the time limit, and only as long as the client is there."""
        work = asyncio.ensure_future(app(self.scope, self.receive, self.send))
        gone = asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait({work, gone}, timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and self._answered and not self._gone.is_set():
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)  # the limit is for the first byte
            await self._conclude(work)
        finally:
            for task in (work, gone, self._watcher):
                if task is not None:
                    task.cancel()
            del self.scope[_EXCHANGE]  # no cycle: freed now, not at the next collection

    async def _conclude(self, work: asyncio.Future[None]) -> None:
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
            error: BaseException | None = self._too_slow()
        else:
            error = work.exception()
        if self._gone.is_set() or self._answered:
            if error and self._answered and not self._gone.is_set() and self.error is None:
                log.error("request %s failed after its answer had begun", self.id, exc_info=error)
            return
        if error is not None:
            await self.fail(self.error or error)

    def _too_slow(self) -> ConvoyError:
        limit = f"at most {self.limits.seconds:g} s"
        if self._complete or not self._has_body():
            return TooSlowError("no answer within the time limit", expected=limit, fix="Send less at once or try again later.")
        return SlowClientError("the body did not arrive within the time limit", expected=limit, fix="Send less at once.")

    def _has_body(self) -> bool:
        return b"transfer-encoding" in self.headers or self.headers.get(b"content-length", b"0") != b"0"

    async def receive(self) -> Message:
        """The client's next message; counts the body.

        Raises:
            TooLargeError: the body is over the limit.
        """
        if self._complete:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        message = await self._next()
        if self._received > self.limits.body_bytes:
            self.error = self._too_large(f"more than {self.limits.body_bytes}")
            raise self.error
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._watcher = asyncio.ensure_future(self._watch())
        return message

    async def _next(self) -> Message:
        self._asked = True
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._gone.set()
            self._complete = True
        else:
            self._received += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
        return message

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()

    def declared_too_large(self) -> TooLargeError | None:
        """The error of a body that is too large by its own account; one that claims less than it sends is found by counting."""
        declared = self.headers.get(b"content-length", b"")
        too_large = declared.isdigit() and (len(declared) > 18 or int(declared) > self.limits.body_bytes)
        return self._too_large(shorten(declared.decode(), 20)) if too_large else None

    def _too_large(self, got: str) -> TooLargeError:
        limit, fix = f"at most {self.limits.body_bytes} bytes", "Send several smaller requests."
        return TooLargeError("the body is too large", where="body", expected=limit, got=f"{got} bytes", fix=fix)

    async def send(self, message: Message) -> None:
        """The application's answer; errors are held back and replaced by ours, except those of the health checks."""
        if message["type"] == "http.response.start":
            if message["status"] >= 400 and not (self.scope["path"] in _PROBES and self.scope["method"] in {"GET", "HEAD"}):
                self._failed = message
                return
            self._answered = True
            message = {**message, "headers": [*message.get("headers", []), *self._own_headers()]}
        elif self._failed is not None:
            if not message.get("more_body", False):
                await self.fail(self.error or _status_error(self._failed["status"], self.scope))
            return
        await self._send(message)

    async def fail(self, error: BaseException) -> None:
        """Send the one shape of an error, and log it if it is ours."""
        if isinstance(error, ClientDisconnect) or self._answered:
            return
        self._answered = True
        status = status_of(error)
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("request %s failed: %s %s", self.id, self.scope["method"], shorten(self.scope["path"]), exc_info=error)
        if not isinstance(error, SlowClientError):
            await self._drain()
        body = encode({"error": {**error_fields(error), "request_id": self.id}})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        headers += [*self._own_headers(), *self._kept(error)]
        if not self._complete and self._has_body():
            headers.append((b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    def _own_headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"x-request-id", self.id.encode()), (b"x-content-type-options", b"nosniff")]

    def _kept(self, error: BaseException) -> list[tuple[bytes, bytes]]:
        if isinstance(error, UnavailableError) and not isinstance(error, TooSlowError):
            return [(b"retry-after", b"%d" % getattr(error, "retry_after", 1))]
        inside = self._failed.get("headers", []) if self._failed else []
        return [(name, value) for name, value in inside if name.lower() in _KEPT_HEADERS]

    async def _drain(self) -> None:
        """Read on for a while before an error: a client in the middle of sending would get a reset instead of the answer."""
        waits = not self._asked and self.headers.get(b"expect", b"").lower() == b"100-continue"
        if waits or self._complete or not self._has_body():
            return
        limit = self._received + _DRAIN_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._complete and self._received < limit:
                    await self._next()


def note_error(scope: Scope, error: Exception) -> None:
    """Leave for `Front` the exception behind the error status that is about to be sent."""
    if isinstance(exchange := scope.get(_EXCHANGE), _Exchange):
        exchange.error = error


def _accepted_id(given: bytes) -> str:
    text = given.decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else uuid.uuid4().hex
