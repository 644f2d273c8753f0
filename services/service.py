"""What every service has in common: BentoML's application behind `services.http.Front`, our page, and the list of bundles."""

from __future__ import annotations

import base64
import hashlib
import re
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from _bentoml_impl.server.app import ServiceAppFactory
from _bentoml_sdk import Service
from bentoml.exceptions import BentoMLException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from services.http import App, Front, Scope, note_error, status_of
from services.json_body import WrongKindError, json_response
from services.settings import Settings

if TYPE_CHECKING:
    from starlette.applications import Starlette

Endpoint = TypeVar("Endpoint")

PAGE = Path(__file__).parent / "page" / "index.html"


def page_policy(page: str) -> str:
    """Content security policy of our page: its own script and style by their digests, this server, and nothing else."""
    inside = {kind: re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL) for kind in ("script", "style")}
    rules = [f"{kind}-src {' '.join(map(_digest, parts))}" for kind, parts in inside.items()]
    closed = ["base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    return "; ".join(["default-src 'none'", *rules, "img-src data:", "connect-src 'self'", *closed])


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class TaskEndpoints:
    """Base of the endpoint classes: a gateway inherits from several of them.

    A task's class calls ``super().__init__()`` and adds what it serves to `catalogue`.
    """

    def __init__(self) -> None:
        self.catalogue: list[dict[str, object]] = []


class ConvoyService(Service[Endpoint]):
    """A BentoML service whose application stands behind `Front`; ``@bentoml.service(service_class=ConvoyService)``."""

    def to_asgi(self, is_main: bool = True) -> App:
        self.inject_config()
        app = _AppFactory(self, is_main=is_main)()
        return Front(cast(App, app), Settings.from_environment(), lambda scope: _routed(app, scope))


def _routed(app: Starlette, scope: Scope) -> bool:
    return any(route.matches(scope)[0] != Match.NONE for route in app.router.routes)


class _AppFactory(ServiceAppFactory):
    """BentoML's application with our page, ``/models``, and exceptions handed to `Front` instead of BentoML's translation.

    BentoML's time and load limits are left out: `Front` has them, and its timers do not outlive the request.
    """

    def __init__(self, service: Service[Any], is_main: bool) -> None:
        super().__init__(service, is_main=is_main)
        self.timeout = self.max_concurrency = None

    def __call__(self) -> Starlette:
        app: Starlette = super().__call__()
        # BentoML's Swagger page: it loads a script from elsewhere. Its description, /docs.json, stays.
        app.router.routes[:] = [route for route in app.router.routes if getattr(route, "name", "") != "static_content"]
        return app

    @property
    def routes(self) -> list[BaseRoute]:
        return [*super().routes, Route("/models", self.models, methods=["GET"], name="models")]

    async def models(self, request: Request) -> Response:
        return json_response({"models": cast(TaskEndpoints, self._service_instance).catalogue})

    async def index_page(self, request: Request) -> Response:
        page = PAGE.read_text(encoding="utf-8")
        headers = {"Content-Security-Policy": page_policy(page), "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
        return Response(page, media_type="text/html", headers=headers)

    async def api_endpoint(self, name: str, request: Request) -> Response:
        try:
            return cast(Response, await super().api_endpoint(name, request))
        except Exception as error:  # noqa: BLE001 (BentoML would answer; `Front` answers and logs instead)
            note_error(request.scope, _translated(error))
            return Response(status_code=status_of(error))


def _translated(error: Exception) -> Exception:
    """BentoML refuses pickles itself, before `JsonRequest` sees them."""
    refused = isinstance(error, BentoMLException) and error.error_code == HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    return WrongKindError("wrong content type", where="Content-Type header", expected="application/json") if refused else error
