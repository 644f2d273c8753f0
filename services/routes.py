"""Routes that are not BentoML API methods: queries, and WebSockets.

BentoML makes a ``POST`` route of each ``@bentoml.api`` method it finds on a service's class and its bases, and describes it in
``/docs.json`` (see `services.openapi`). `route` and `websocket` mark further methods, which `services.service` finds likewise:

    class Endpoints(TaskEndpoints):
        @route("GET", "/separate/status")
        async def separation_status(self, request: Request) -> Response: ...

        @websocket("/separate/stream")
        async def stream(self, socket: WebSocket) -> None: ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from starlette.exceptions import HTTPException

Method = TypeVar("Method", bound=Callable[..., Any])

WEBSOCKET = "WEBSOCKET"
_MARK = "__convoy_route__"


@dataclass(frozen=True)
class ExtraRoute:
    """One such route.

    Attributes:
        method: HTTP's, or `WEBSOCKET`.
        path: where it answers.
        name: of the method on the endpoints' class.
        operation: what OpenAPI says of it beside the method's docstring.
    """

    method: str
    path: str
    name: str
    operation: Mapping[str, object]


def route(method: str, path: str, operation: Mapping[str, object] | None = None) -> Callable[[Method], Method]:
    """Mark a method ``async (self, request) -> Response`` as what answers `method` at `path`."""

    def mark(function: Method) -> Method:
        setattr(function, _MARK, ExtraRoute(method, path, function.__name__, operation or {}))
        return function

    return mark


def websocket(path: str, operation: Mapping[str, object] | None = None) -> Callable[[Method], Method]:
    """Mark a method ``async (self, socket) -> None`` as what talks to WebSockets opened at `path`."""
    return route(WEBSOCKET, path, operation)


def extra_routes(kind: type) -> list[ExtraRoute]:
    """The routes marked on a class and its bases."""
    marked = (getattr(getattr(kind, name), _MARK, None) for name in dir(kind))
    return [found for found in marked if isinstance(found, ExtraRoute)]


def upgrade_required(path: str) -> HTTPException:
    """What a plain request to a WebSocket's address is told."""
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
    detail = f"{path} is a WebSocket: connect to it with ws:// or wss://."
    return HTTPException(HTTPStatus.UPGRADE_REQUIRED, detail, headers)
