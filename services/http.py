"""What everything that answers over HTTP shares: the types of ASGI, request ids, and one shape for every error.

    {"error": {"code": …, "message": …, "request_id": …}}

Whose fault an error is, is decided where it happens: `services.json_body` turns what is wrong with a body into `InputError`;
whatever else an endpoint raises is the service's own fault, also a pydantic ``ValidationError``, which BentoML alone would report
as the client's.

A request passes, from outside to inside: `services.connections` (bytes become requests), `services.observer` (ids, logs, metrics,
traces), CORS (`services.cors`), `services.front` (hosts, keys, limits, errors), and BentoML's application (`services.service`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException

from models.errors import InputError, UnavailableError, shorten
from services.json_body import encode
from services.record import record_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

request_id: ContextVar[str] = ContextVar("request_id", default="-")

PROBES = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
_KEPT_HEADERS = frozenset({b"allow", b"retry-after", b"upgrade", b"www-authenticate"})
_OUR_FAULT = "Something went wrong on our side. The service's log has the details under this request id."


class TooSlowError(UnavailableError):
    """The answer was not ready within the time limit."""

    code, status = "too_slow", 504


class SlowClientError(InputError):
    """The body did not arrive within the time limit."""

    code, status = "body_too_slow", 408


class UnexplainedError(Exception):
    """A 5xx from inside that came without an exception."""


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


def error_body(error: BaseException, request: str | None = None) -> bytes:
    """The one shape of an error, in JSON; `request` is the request's id, by default that of the request at hand."""
    return encode({"error": {**error_fields(error), "request_id": request or request_id.get()}})


def error_headers(error: BaseException) -> list[tuple[bytes, bytes]]:
    """Headers that an error asks for: when to come back, how to say who one is."""
    given = dict(getattr(error, "headers", None) or {})
    if isinstance(error, UnavailableError) and not isinstance(error, TooSlowError):
        given["retry-after"] = str(getattr(error, "retry_after", 1))
    return kept_headers((name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items())


def kept_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Those of an error from inside that its answer keeps."""
    return [(name.lower(), value) for name, value in headers if name.lower() in _KEPT_HEADERS]


def worst(errors: Iterable[Exception]) -> Exception:
    """The exception that decides the status of a call in which nothing succeeded: one of ours (5xx) before a client's (4xx)."""
    return max(errors, key=lambda error: status_of(error) >= HTTPStatus.INTERNAL_SERVER_ERROR)


def status_error(status: int, scope: Scope) -> Exception:
    """What we say when something inside answered with a bare error status, as BentoML and Starlette do."""
    route = f"{scope.get('method', 'WebSocket')} {shorten(scope['path'])}"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return UnexplainedError(status)
    messages = {
        404: f"There is nothing at {route}. The routes are listed in /docs.json.",
        405: f"{route} is not allowed. The Allow header names the methods that are.",
    }
    return HTTPException(status, messages.get(status, f"{_code(status)}: {route}"))


def note_error(scope: Scope, error: Exception) -> None:
    """Leave for `services.front` the exception behind the error status that is about to be sent."""
    if (record := record_of(scope)) is not None:
        record.error = error


async def deny(scope: Scope, receive: Receive, send: Send, error: Exception) -> None:
    """Refuse a WebSocket before its handshake, with an HTTP answer where the server can send one."""
    await receive()  # websocket.connect
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"application/json"), *error_headers(error)]
    await send({"type": "websocket.http.response.start", "status": status_of(error), "headers": headers})
    await send({"type": "websocket.http.response.body", "body": error_body(error)})


def _code(status: int) -> str:
    try:
        return HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")
    except ValueError:
        return "error"
