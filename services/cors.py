"""Pages of other sites: which may read our answers (CORS), and which may open WebSockets.

Off unless ``CONVOY_CORS_ORIGINS`` names origins, or is ``*``. Cookies are never asked for: who may call is said by keys alone.
"""

from __future__ import annotations

from collections.abc import Collection
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from models.errors import InputError
from services.http import App, error_body
from services.settings import listed

ANY = "*"
_METHODS = ("GET", "POST", "PUT", "DELETE")
_READABLE = ("Content-Disposition", "Retry-After", "WWW-Authenticate", "X-Request-Id", "X-Voices-Scale", "X-Volume-Notes")
_PREFLIGHT_SECONDS = 600


class ForeignPageError(InputError):
    """A page of another site wants to use the service in its visitor's name."""

    code, status = "origin_refused", 403


def with_cors(app: App, origins: str) -> App:
    """`app`, answering preflights and adding the headers to all its answers, errors too; `app` itself where it is off."""
    if not (allowed := listed(origins)):
        return app
    return _Cors(
        app,
        allow_origins=allowed,
        allow_methods=_METHODS,
        allow_headers=[ANY],
        expose_headers=_READABLE,
        max_age=_PREFLIGHT_SECONDS,
    )


class _Cors(CORSMiddleware):
    """Starlette's, which refuses preflights in plain text."""

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code < HTTPStatus.BAD_REQUEST:
            return answer
        expected, got = "an origin of CONVOY_CORS_ORIGINS and one of " + ", ".join(_METHODS), bytes(answer.body).decode()
        error = ForeignPageError("the preflight is refused", expected=expected, got=got)
        kept = {name: value for name, value in answer.headers.items() if name not in {"content-length", "content-type"}}
        return Response(error_body(error), error.status, kept, "application/json")


def check_origin(origin: str | None, host: str, allowed: Collection[str]) -> None:
    """Whether a WebSocket may be opened: browsers let any page do it, and say only whose page it is. Programs send no ``Origin``.

    Raises:
        ForeignPageError: a page of another site, which is not among `allowed`.
    """
    own = origin is None or _authority(origin) == host.lower() != ""
    if own or ANY in allowed or origin in allowed:
        return
    expected = "the service's own, or one of CONVOY_CORS_ORIGINS"
    raise ForeignPageError("pages of other sites are refused", where="Origin header", expected=expected, got=origin)


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
