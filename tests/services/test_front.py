"""All layers over a small application, without BentoML and without a server."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import httpx
import pytest
from layers import calls, layered
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route, WebSocketRoute

from services.http import request_id
from services.settings import Limits, Settings


async def echo(request: Request):
    return PlainTextResponse(str(len(await request.body())))


async def bug(request: Request):
    raise KeyError("secret detail")


async def busy(request: Request):
    return JSONResponse({"error": "Too many requests"}, status_code=429, headers={"retry-after": "7"})


async def slow(request: Request):
    await asyncio.sleep(60)
    return PlainTextResponse("")


async def unready(request: Request):
    return PlainTextResponse("\n", status_code=503)


ROUTES = [
    Route("/echo", echo, methods=["POST"]),
    Route("/bug", bug),
    Route("/busy", busy),
    Route("/slow", slow),
    Route("/readyz", unready),
]


def call(method: str, path: str, settings: Settings | None = None, **options) -> httpx.Response:
    [response] = calls(layered(ROUTES, settings or Settings()), (method, path, options))
    return response


def error_of(response: httpx.Response, status: int) -> dict[str, str]:
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    error = response.json()["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert response.headers["x-request-id"] == error["request_id"]
    assert response.headers["content-type"] == "application/json"
    return error


def test_unknown_route_and_wrong_method_have_the_one_shape():
    assert error_of(call("GET", "/nothing"), 404)["code"] == "not_found"
    response = call("GET", "/echo")
    assert error_of(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"


def test_a_bug_is_a_500_that_tells_the_client_nothing_and_the_log_everything(caplog):
    with caplog.at_level(logging.ERROR, "convoy.http"):
        error = error_of(call("GET", "/bug"), 500)
    assert "secret" not in error["message"]
    assert error["request_id"] in caplog.text
    assert "secret detail" in caplog.text
    assert "Traceback" in caplog.text


def test_an_error_from_inside_is_reshaped_and_keeps_its_retry_after():
    response = call("GET", "/busy")
    assert error_of(response, 429)["code"] == "too_many_requests"
    assert response.headers["retry-after"] == "7"


def test_health_checks_are_left_alone():
    response = call("GET", "/readyz")
    assert (response.status_code, response.text) == (503, "\n")


def test_the_time_limit_is_a_504():
    assert error_of(call("GET", "/slow", Settings(timeout_seconds=0.05)), 504)["code"] == "too_slow"


IDS = [("abc-1.2_3", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("", False)]


@pytest.mark.parametrize(("given_id", "kept"), IDS)
def test_request_ids_are_taken_over_only_if_they_are_harmless(given_id, kept):
    answer = call("POST", "/echo", content=b"x", headers={"X-Request-Id": given_id}).headers["x-request-id"]
    assert (answer == given_id) is kept
    assert kept or len(answer) == 32


def test_the_body_limit_counts_and_believes_no_header():
    limits = Settings(max_body_bytes=100)
    assert call("POST", "/echo", limits, content=b"x" * 100).text == "100"
    assert "100 bytes" in error_of(call("POST", "/echo", limits, content=b"x" * 101), 413)["message"]

    async def chunks():
        for _ in range(20):
            yield b"x" * 10

    response = call("POST", "/echo", limits, content=chunks())
    assert "content-length" not in response.request.headers
    assert error_of(response, 413)["code"] == "too_large"


def test_a_route_may_have_limits_of_its_own():
    app = layered(ROUTES, Settings(max_body_bytes=10), {"/echo": Limits(100, 60.0)})
    bodies = [(path, {"content": b"x" * size}) for path, size in (("/echo", 100), ("/echo", 101), ("/bug", 11))]
    within, over, elsewhere = calls(app, *(("POST", *body) for body in bodies))
    assert within.text == "100"
    assert "100 bytes" in error_of(over, 413)["message"]
    assert "10 bytes" in error_of(elsewhere, 413)["message"]


def test_an_error_before_the_body_has_come_reads_on_for_a_while():
    sent = 0

    async def chunks():
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b"x"

    error_of(call("POST", "/nothing", content=chunks()), 404)
    assert sent == 100


def test_websockets_have_a_request_id():
    async def talk(socket):
        seen.append(request_id.get())

    async def main():
        app = layered([WebSocketRoute("/", talk)], Settings())
        scope = {"type": "websocket", "path": "/", "root_path": "", "headers": [(b"x-request-id", b"abc")]}
        await app(scope, None, None)
        await app({**scope, "headers": []}, None, None)

    seen: list[str] = []
    asyncio.run(main())
    assert seen[0] == "abc"
    assert len(seen[1]) == 32
    assert request_id.get() == "-"


def test_a_body_of_endless_chunks_is_stopped():
    sent = 0

    async def endless():
        nonlocal sent
        while sent < 10**9:
            sent += 2**20
            yield b"x" * 2**20

    error_of(call("POST", "/echo", Settings(max_body_bytes=100), content=endless()), 413)
    assert sent < 80 * 2**20


def test_a_body_that_does_not_arrive_is_a_408():
    async def stalled():
        yield b"x"
        await asyncio.sleep(60)

    assert error_of(call("POST", "/echo", Settings(timeout_seconds=0.05), content=stalled()), 408)["code"] == "body_too_slow"


def test_too_many_requests_at_once_are_turned_away_but_health_checks_are_not():
    async def main():
        front = layered(ROUTES, Settings(max_requests=2, timeout_seconds=0.2))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://test") as client:
            held = [asyncio.ensure_future(client.get("/slow")) for _ in range(2)]
            await asyncio.sleep(0.05)
            refused, probe = await client.post("/echo", content=b""), await client.get("/readyz")
            await asyncio.gather(*held)
            return refused, probe, await client.post("/echo", content=b"")

    refused, probe, later = asyncio.run(main())
    assert error_of(refused, 429)["code"] == "busy"
    assert refused.headers["retry-after"] == "1"
    assert probe.status_code == 503
    assert later.status_code == 200


def test_paths_that_no_route_answers_never_reach_the_application():
    reached = []

    async def app(scope, receive, send):
        reached.append(scope["path"])
        await PlainTextResponse("")(scope, receive, send)

    answers = calls(layered([Route("/here", app)], Settings(), inner=app), *(("GET", f"/{name}") for name in ("here", "there")))
    assert [answer.status_code for answer in answers] == [200, 404]
    assert reached == ["/here"]


def test_work_stops_when_the_client_hangs_up():
    stopped = []

    async def app(scope, receive, send):
        await receive()
        try:
            await asyncio.sleep(60)
        finally:
            stopped.append(True)

    async def main():
        messages = iter([{"type": "http.request", "body": b"{}"}, {"type": "http.disconnect"}])
        sent = []

        async def receive():
            await asyncio.sleep(0.01)
            return next(messages)

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/tag", "headers": []}
        await asyncio.wait_for(layered([Route("/tag", app)], Settings(), inner=app)(scope, receive, send), 5)
        assert asyncio.current_task().cancelling() == 0  # the server's own task goes on
        return sent

    assert asyncio.run(main()) == []
    assert stopped == [True]


def test_work_that_will_not_stop_answers_nobody():
    async def app(scope, receive, send):
        await receive()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await PlainTextResponse("late")(scope, receive, send)

    async def main():
        messages = [{"type": "http.request", "body": b"{}"}, {"type": "http.disconnect"}]

        async def receive():
            return messages.pop(0)

        async def send(message):
            pass  # what a server does for a client that is gone

        scope = {"type": "http", "method": "POST", "path": "/tag", "headers": []}
        await asyncio.wait_for(layered([Route("/tag", app)], Settings(), inner=app)(scope, receive, send), 5)
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)

    asyncio.run(main())


def test_a_server_that_stops_ends_the_work():
    async def main():
        transport = httpx.ASGITransport(layered(ROUTES, Settings()))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            call = asyncio.ensure_future(client.get("/slow"))
            await asyncio.sleep(0.02)
            call.cancel()
            await asyncio.wait([call], timeout=5)
            return call.cancelled()

    assert asyncio.run(main())


HOSTS = [
    ("test", 200),
    ("TEST:3000", 200),
    ("a.b.example.org", 200),
    ("example.org", 421),
    ("evil.example.org.evil.com", 421),
    ("test.evil.com", 421),
    ("", 421),
]


@pytest.mark.parametrize(("host", "status"), HOSTS)
def test_only_allowed_hosts_are_answered(host, status):
    settings = Settings(allowed_hosts="test, *.example.org")
    response = call("POST", "/echo", settings, headers={"Host": host}, content=b"x")
    assert response.status_code == status
    if status == 421:
        assert error_of(response, 421)["code"] == "host_refused"
    assert call("GET", "/readyz", settings, headers={"Host": host}).status_code == 503  # probes go by address
