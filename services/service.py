"""What every service has in common: BentoML's application behind our layers (`services.http`), our page, the list of bundles."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from _bentoml_impl.server.app import ContextMiddleware, ServiceAppFactory
from _bentoml_sdk import Service
from _bentoml_sdk.method import APIMethod
from bentoml.exceptions import BentoMLException
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from models.errors import BundleError, UnprocessableError
from services import access_log, memory, metrics, tracing
from services.cors import with_cors
from services.front import Front
from services.http import App, note_error, status_of
from services.json_body import WrongKindError, json_response
from services.keys import Keys
from services.observer import Observer
from services.openapi import Description, document
from services.page_files import INDEX, page_routes
from services.routes import WEBSOCKET, ExtraRoute, extra_routes, upgrade_required
from services.settings import Limits, Settings, bundle_folders
from services.uploads import UploadCall

if TYPE_CHECKING:
    from starlette.applications import Starlette

Endpoint = TypeVar("Endpoint")
Loaded = TypeVar("Loaded")
_Answers = Callable[[Any, Request], Awaitable[Response]]


class UnknownModelError(UnprocessableError):
    """`model` names no bundle that is loaded."""

    code = "model_unknown"


def load_bundles(folder: Path, task: str, load: Callable[[Path], Loaded]) -> dict[str, Loaded]:
    """What `load` makes of every bundle of a task below `folder`, by name.

    Raises:
        BundleError: one is damaged, or two have the same name. A service that quietly leaves one out would be worse.
    """
    found: dict[str, Loaded] = {}
    for path in bundle_folders(folder, task):
        loaded = load(path)
        name = cast(Any, loaded).spec.name
        if name in found:
            raise BundleError("two bundles have the same name", where=str(path), got=name, fix="Rename or remove one.")
        found[name] = loaded
    return found


class TaskEndpoints:
    """Base of the endpoint classes: a gateway inherits from several of them.

    A task's class takes what it needs by keyword, hands the rest to ``super().__init__(**others)``, and adds what it serves to
    `catalogue`. Its API methods, and those marked by `services.routes`, are found by themselves. All tasks of a gateway share one
    instance: anything but methods belongs in an object of its own.

    Args:
        settings: limits; by default from the environment.
    """

    def __init__(self, settings: Settings | None = None, **others: Any) -> None:
        super().__init__(**others)
        self.settings = settings or Settings.from_environment()
        self.catalogue: list[dict[str, object]] = []

    @classmethod
    def limits(cls, settings: Settings) -> dict[str, Limits]:
        """Limits by path, for routes that need others than `Settings.limits`; a task adds its own to ``super().limits(…)``."""
        return {}


class ConvoyService(Service[Endpoint]):
    """A BentoML service whose application stands behind our layers; ``@bentoml.service(service_class=ConvoyService)``."""

    def to_asgi(self, is_main: bool = True) -> App:
        from services.connections import guard  # uvicorn: nobody else needs it

        self.inject_config()
        settings = Settings.from_environment()
        memory.few_arenas()
        access_log.configure(settings.log)
        metrics.own_folder()
        tracing.start(settings.otlp)
        guard(settings)
        app = _AppFactory(self, is_main=is_main)()
        limits = cast(type[TaskEndpoints], self.inner).limits(settings)
        front = Front(cast(App, app), settings, limits, Keys.given(settings.api_keys, settings.api_keys_file))
        return Observer(with_cors(front, settings.cors_origins), app.router.routes)

    @property
    def openapi_spec(self) -> Description:
        return document(self)


class _AppFactory(ServiceAppFactory):
    """BentoML's application with our page, ``/models``, and exceptions handed to `Front` instead of BentoML's translation.

    Its middleware is left out but for what its API methods need. `Front` has the time and load limits, whose timers do not
    outlive the request; `Observer` the log, the metrics and the traces: BentoML's would make a series of every path that anybody
    asks for.
    """

    def __init__(self, service: Service[Any], is_main: bool) -> None:
        super().__init__(service, is_main=is_main)
        self._description: Description | None = None

    def __call__(self) -> Starlette:
        app: Starlette = super().__call__()
        # BentoML's Swagger page: it loads a script from elsewhere. Its description, /docs.json, stays.
        app.router.routes[:] = [route for route in app.router.routes if getattr(route, "name", "") != "static_content"]
        return app

    @property
    def middlewares(self) -> list[Middleware]:
        return []

    @property
    def routes(self) -> list[BaseRoute]:
        theirs = [self._in_context(route) for route in super().routes if getattr(route, "name", "") not in self._uploads]
        uploads = [self._route("POST", call.route, name, call.func) for name, call in self._uploads.items()]
        more = [route for found in extra_routes(self.service.inner) for route in self._routes_of(found)]
        models = Route("/models", self.models, methods=["GET"], name="models")
        return [*uploads, *theirs, *page_routes(), *more, models]

    @functools.cached_property
    def _uploads(self) -> dict[str, APIMethod[..., Any]]:
        """The API methods that read their request themselves: BentoML's way there would only cost time."""
        return {name: call for name, call in self.service.apis.items() if issubclass(call.input_spec, UploadCall)}

    def _in_context(self, route: BaseRoute) -> BaseRoute:
        """One of BentoML's routes, with what its API methods need around them."""
        if isinstance(route, Route):
            route.app = ContextMiddleware(route.app, self.service.context)
        return route

    def _route(self, method: str, path: str, name: str, function: _Answers) -> Route:
        """The instance whose method answers is there only when the application has started."""

        async def answer(request: Request) -> Response:
            return await _noting(request, lambda: function(self._service_instance, request))

        return Route(path, answer, methods=[method], name=name)

    def _routes_of(self, found: ExtraRoute) -> list[BaseRoute]:
        if found.method != WEBSOCKET:
            return [self._route(found.method, found.path, found.name, getattr(self.service.inner, found.name))]

        async def talk(socket: WebSocket) -> None:
            await getattr(self._service_instance, found.name)(socket)

        async def refuse(request: Request) -> Response:
            return await _noting(request, lambda: _raise(upgrade_required(found.path)))

        return [WebSocketRoute(found.path, talk, name=found.name), Route(found.path, refuse, name=f"{found.name}_http")]

    async def metrics(self, request: Request) -> Response:
        await asyncio.to_thread(metrics.prepare_scrape)
        return cast(Response, await super().metrics(request))

    async def models(self, request: Request) -> Response:
        return json_response({"models": cast(TaskEndpoints, self._service_instance).catalogue})

    async def openapi_spec_view(self, req: Request) -> Response:
        if self._description is None:  # made once, when all bundles are known: it takes a tenth of a second
            endpoints = cast(TaskEndpoints, self._service_instance)
            self._description = document(self.service, endpoints.catalogue, endpoints.settings)
        return json_response(self._description)

    async def index_page(self, request: Request) -> Response:
        return INDEX.answer(request)

    async def api_endpoint(self, name: str, request: Request) -> Response:
        call = super().api_endpoint
        return await _noting(request, lambda: call(name, request))


async def _noting(request: Request, call: Callable[[], Awaitable[Any]]) -> Response:
    """The answer, or a bare status for `Front`, which says in our words what the exception means; BentoML would use its own."""
    try:
        return cast(Response, await call())
    except Exception as error:  # noqa: BLE001 (`Front` answers and logs)
        note_error(request.scope, _translated(error))
        headers = getattr(error, "headers", None) if isinstance(error, HTTPException) else None
        return Response(status_code=status_of(error), headers=headers)


async def _raise(error: Exception) -> Response:
    raise error


def _translated(error: Exception) -> Exception:
    """BentoML refuses pickles itself, before we see them."""
    refused = isinstance(error, BentoMLException) and error.error_code == HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    where, got = "Content-Type header", "application/vnd.bentoml+pickle"
    return WrongKindError("wrong content type", where=where, expected="what /docs.json says", got=got) if refused else error
