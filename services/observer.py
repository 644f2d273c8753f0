"""The outermost layer: every request and WebSocket gets an id, and is logged, counted and traced when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.routing import BaseRoute, Match, Route, WebSocketRoute

from services import access_log, memory, metrics, tracing
from services.http import App, Message, Receive, Scope, Send, request_id
from services.record import CLIENT_GONE, KEY_IN_SCOPE, Record, at_hand, new_record

_PAGE = "/page/*"  # one name for the many files of the page
_NO_CODE = 1006  # what is said of a WebSocket that ended without a close frame


class Observer:
    """Pure ASGI middleware.

    Args:
        app: what answers.
        routes: of the application.
    """

    def __init__(self, app: App, routes: Sequence[BaseRoute]) -> None:
        self.app, self._routes = app, routes
        self._plain = {("http", route.path): route.path for route in routes if isinstance(route, Route)}
        self._plain |= {("websocket", route.path): route.path for route in routes if isinstance(route, WebSocketRoute)}
        self._plain |= {(kind, path): _PAGE for kind, path in self._plain if path.startswith("/page/")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        record = new_record(scope, self._template(scope))
        scope[KEY_IN_SCOPE] = record
        token = request_id.set(record.id)
        metrics.began()
        try:
            with at_hand(record), tracing.request_span(record):
                try:
                    await self._watch(record, scope, receive, send)
                finally:
                    record.status = record.status or CLIENT_GONE
        finally:
            metrics.ended(record.route, record.method, record.status, record.seconds)
            access_log.write_request(record)
            request_id.reset(token)
            scope.pop(KEY_IN_SCOPE, None)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                memory.freeze()
            await send(message)

        giving_back = asyncio.create_task(memory.give_back_regularly())
        try:
            await self.app(scope, receive, sent)
        finally:
            giving_back.cancel()
            await asyncio.to_thread(tracing.stop)

    async def _watch(self, record: Record, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            _note_sent(record, message)
            await send(message)

        async def received() -> Message:
            message = await receive()
            if message["type"] == "websocket.receive":
                record.bytes_in += _size(message)
            elif message["type"] == "websocket.disconnect" and not record.close:
                record.close = message.get("code") or _NO_CODE
            return message

        # The bytes of a request's body are counted in `services.exchange`, against their limit.
        await self.app(scope, receive if scope["type"] == "http" else received, sent)

    def _template(self, scope: Scope) -> str | None:
        """Of the route that answers; None where none does."""
        if (found := self._plain.get((scope["type"], scope["path"]))) is not None:
            return found
        matching = (route for route in self._routes if route.matches(scope)[0] != Match.NONE)
        route = next(matching, None)
        return None if route is None else str(getattr(route, "path", "") or "/")


def _note_sent(record: Record, message: Message) -> None:
    match message["type"]:
        case "http.response.body" | "websocket.http.response.body":
            record.bytes_out += len(message.get("body", b""))
        case "http.response.start" | "websocket.http.response.start":
            record.status = message["status"]
        case "websocket.send":
            record.bytes_out += _size(message)
        case "websocket.accept":
            record.status = 101
        case "websocket.close":
            record.close = message.get("code", 1000)
            record.status = record.status or 403  # what the server answers where nothing was accepted


def _size(message: Message) -> int:
    return len(message.get("bytes") or b"") or len((message.get("text") or "").encode("utf-8", "surrogatepass"))
