"""Pages of other sites: the headers that let them read answers, and the WebSockets that they may open."""

from __future__ import annotations

import asyncio
import json

import pytest
from layers import calls, layered
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

from services.keys import Keys
from services.settings import Settings

FRIEND, STRANGER = "https://friend.example", "https://evil.example"
SETTINGS = Settings(cors_origins=f"{FRIEND}, http://localhost:5173")


async def echo(request: Request):
    return PlainTextResponse(str(len(await request.body())))


async def bug(request: Request):
    raise KeyError


ROUTES = [Route("/echo", echo, methods=["POST"]), Route("/bug", bug)]
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-api-key"}


def test_off_unless_it_is_set():
    app = layered(ROUTES, Settings())
    preflight, answer = calls(
        app,
        ("OPTIONS", "/echo", {"headers": {"Origin": FRIEND, **PREFLIGHT}}),
        ("POST", "/echo", {"headers": {"Origin": FRIEND}}),
    )
    assert preflight.status_code == 405
    assert not [name for name in (*preflight.headers, *answer.headers) if name.startswith("access-control")]


def test_preflights_are_answered_without_a_key():
    keys = Keys(["a: 0123456789abcdef"])
    [answer] = calls(layered(ROUTES, SETTINGS, keys=keys), ("OPTIONS", "/echo", {"headers": {"Origin": FRIEND, **PREFLIGHT}}))
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == FRIEND
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "content-type,x-api-key"


def test_a_refused_preflight_has_the_one_shape():
    [answer] = calls(layered(ROUTES, SETTINGS), ("OPTIONS", "/echo", {"headers": {"Origin": STRANGER, **PREFLIGHT}}))
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "origin_refused"
    assert "access-control-allow-origin" not in answer.headers


def test_errors_of_all_kinds_carry_the_headers():
    keys = Keys(["a: 0123456789abcdef"])
    own = {"Origin": FRIEND, "X-API-Key": "0123456789abcdef"}
    requests = [
        ("POST", "/echo", {"headers": {"Origin": FRIEND}}),
        ("POST", "/nothing", {"headers": own}),
        ("GET", "/echo", {"headers": own}),
        ("GET", "/bug", {"headers": own}),
        ("POST", "/echo", {"headers": own, "content": b"x" * 11}),
        ("POST", "/echo", {"headers": own, "content": b"x"}),
    ]
    answers = calls(layered(ROUTES, Settings(cors_origins=FRIEND, max_body_bytes=10), keys=keys), *requests)
    assert [answer.status_code for answer in answers] == [401, 404, 405, 500, 413, 200]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == FRIEND
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]


def test_strangers_get_no_headers_unless_all_are_let_in():
    [answer] = calls(layered(ROUTES, SETTINGS), ("POST", "/echo", {"headers": {"Origin": STRANGER}}))
    assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (200, None)
    [answer] = calls(layered(ROUTES, Settings(cors_origins="*")), ("POST", "/echo", {"headers": {"Origin": STRANGER}}))
    assert answer.headers["access-control-allow-origin"] == "*"


def handshake(settings: Settings, host: str, origin: str | None) -> list[dict]:
    async def talk(socket):
        await socket.accept()
        await socket.close()

    async def main() -> list[dict]:
        sent = []

        async def receive():
            return {"type": "websocket.connect"}

        async def send(message):
            sent.append(message)

        headers = [(b"host", host.encode())] + ([(b"origin", origin.encode("latin-1"))] if origin is not None else [])
        scope = {"type": "websocket", "path": "/s", "root_path": "", "headers": headers}
        await layered([WebSocketRoute("/s", talk)], settings)(
            {**scope, "extensions": {"websocket.http.response": {}}}, receive, send
        )
        return sent

    return asyncio.run(main())


@pytest.mark.parametrize(
    "origin", [STRANGER, "null", "", "http://[", "http://convoy.example.evil.example", "http://convoy.example:81", "é"]
)
def test_pages_of_other_sites_open_no_websocket(origin):
    start, body = handshake(SETTINGS, "convoy.example", origin)
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 403)
    assert json.loads(body["body"])["error"]["code"] == "origin_refused"


@pytest.mark.parametrize(
    ("settings", "host", "origin"),
    [
        (Settings(), "convoy.example:80", "http://Convoy.example:80"),
        (Settings(), "convoy.example", None),
        (SETTINGS, "convoy.example", FRIEND),
        (Settings(cors_origins="*"), "convoy.example", STRANGER),
    ],
)
def test_our_own_pages_programs_and_those_let_in_open_websockets(settings, host, origin):
    assert [message["type"] for message in handshake(settings, host, origin)] == ["websocket.accept", "websocket.close"]
