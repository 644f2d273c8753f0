"""The front over a small application, without BentoML."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from models.errors import BundleError, ConfigError, InputError, TooLargeError, UnavailableError, UnprocessableError
from services.batching import BusyError
from services.http import Front, error_fields, request_id, status_of, worst
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
    async def main() -> httpx.Response:
        front = Front(Starlette(routes=ROUTES), settings or Settings())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(main())


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
    async def main():
        front = Front(Starlette(routes=ROUTES), Settings(max_body_bytes=10), limits={"/echo": Limits(100, 60.0)})
        async with httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://test") as client:
            return [await client.post(path, content=b"x" * size) for path, size in (("/echo", 100), ("/echo", 101), ("/bug", 11))]

    within, over, elsewhere = asyncio.run(main())
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
    async def app(scope, receive, send):
        seen.append(request_id.get())

    async def main():
        scope = {"type": "websocket", "path": "/", "headers": [(b"x-request-id", b"abc")]}
        await Front(app, Settings())(scope, None, None)
        await Front(app, Settings())({**scope, "headers": []}, None, None)

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
        front = Front(Starlette(routes=ROUTES), Settings(max_requests=2, timeout_seconds=0.2))
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

    async def main():
        front = Front(app, Settings(), lambda scope: scope["path"] == "/here")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://test") as client:
            return [(await client.get(f"/{name}")).status_code for name in ("here", "there", "elsewhere")]

    assert asyncio.run(main()) == [200, 404, 404]
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
        await asyncio.wait_for(Front(app, Settings())(scope, receive, send), 5)
        return sent

    assert asyncio.run(main()) == []
    assert stopped == [True]


def test_statuses_of_exceptions():
    assert status_of(InputError("x")) == 400
    assert status_of(TooLargeError("x")) == 413
    assert status_of(UnprocessableError("x")) == 422
    assert status_of(BusyError("x")) == 429
    assert status_of(UnavailableError("x")) == 503
    for ours in (BundleError("x"), ConfigError("x"), KeyError("x"), MemoryError()):
        assert status_of(ours) == 500
        assert error_fields(ours)["code"] == "internal"


def test_one_of_our_bugs_decides_the_status_of_a_call_in_which_all_failed():
    ours = KeyError("x")
    assert worst([UnprocessableError("x"), ours]) is ours
    first = UnprocessableError("x")
    assert worst([first, TooLargeError("y")]) is first
