"""Connections: heads and answers that trickle, crowds, and bytes that are not HTTP; a real uvicorn in this process."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import time
from collections.abc import Awaitable, Callable

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.connections import guarded
from services.settings import Settings

PROTOCOLS = [H11Protocol, HttpToolsProtocol]
LOOPS = [asyncio.SelectorEventLoop]
if importlib.util.find_spec("uvloop"):  # not on Windows
    import uvloop

    LOOPS.append(uvloop.new_event_loop)

GET = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"


async def hello(request: Request):
    return PlainTextResponse("hello")


async def echo(request: Request):
    return PlainTextResponse(str(len(await request.body())))


async def pause(request: Request):
    await asyncio.sleep(0.5)
    return PlainTextResponse("late")


async def flood(request: Request):
    async def much():
        for _ in range(200):
            yield b"x" * 2**18

    return StreamingResponse(much())


async def talk(socket):
    await socket.accept()
    await asyncio.sleep(0.5)
    await socket.send_text("still here")
    await socket.close()


ROUTES = [Route("/hello", hello), Route("/echo", echo, methods=["POST"]), Route("/pause", pause), Route("/flood", flood)]


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.__module__)
def loop(request) -> Callable[[], asyncio.AbstractEventLoop]:
    return request.param


@pytest.fixture(params=PROTOCOLS, ids=lambda kind: kind.__name__)
def run(request, loop) -> Callable[..., None]:
    """Run a client against a server with these settings."""

    def running(client: Callable[[int, uvicorn.Server], Awaitable[None]], **settings: float) -> None:
        async def main() -> None:
            app = Starlette(routes=[*ROUTES, WebSocketRoute("/talk", talk)])
            protocol = guarded(request.param, Settings(**{"head_seconds": 0.2, "timeout_seconds": 0.3, **settings}))
            config = uvicorn.Config(app, port=0, log_config=None, http=protocol, ws="wsproto", timeout_graceful_shutdown=1)
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server._serve(None))
            try:
                while not server.started:
                    await asyncio.sleep(0.01)
                await asyncio.wait_for(client(server.servers[0].sockets[0].getsockname()[1], server), 10)
            finally:
                server.should_exit = True
                await serving

        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(main())

    return running


async def dial(port: int, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    return reader, writer


async def closed(*streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    for _, writer in streams:
        writer.transport.abort()
    await asyncio.sleep(0.01)


def error_of(answer: bytes, status: int) -> dict[str, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    error = json.loads(body)["error"]
    assert error["request_id"].encode() in head
    return error


async def trickling(writer):
    while True:
        await asyncio.sleep(0.05)
        writer.write(b"x")


def test_a_head_that_trickles_is_a_408_and_silence_is_closed(run):
    async def client(port, server):
        silent, begun = await dial(port), await dial(port, GET[:-2] + b"X: ")
        started = time.monotonic()
        trickle = asyncio.ensure_future(trickling(begun[1]))
        assert error_of(await begun[0].readuntil(b"}}"), 408)["code"] == "head_too_slow"
        trickle.cancel()
        assert await silent[0].read() == b""
        assert time.monotonic() - started < 2  # no byte bought it another 0.2 s
        await closed(silent, begun)
        assert not server.server_state.connections

    run(client)


def test_the_next_head_on_a_connection_has_to_arrive_too(run):
    async def client(port, server):
        reader, writer = await dial(port, GET)
        assert b"hello" in await reader.readuntil(b"hello")
        writer.write(GET[:20])
        assert error_of(await reader.read(), 408)
        await closed((reader, writer))

    run(client)


def test_work_and_bodies_may_take_longer_than_heads(run):
    async def client(port, server):
        reader, writer = await dial(port, b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
        for _ in range(4):
            await asyncio.sleep(0.1)
            writer.write(b"x")
        assert (await reader.readuntil(b"\r\n\r\n4")).startswith(b"HTTP/1.1 200")
        writer.write(GET.replace(b"hello", b"pause"))
        assert (await reader.readuntil(b"late")).startswith(b"HTTP/1.1 200")
        await closed((reader, writer))

    run(client)


def test_websockets_are_not_bound_by_the_time_of_heads(run):
    async def client(port, server):
        head = "GET /talk HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        reader, writer = await dial(port, f"{head}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
        assert b"still here" in await reader.readuntil(b"still here")
        await closed((reader, writer))

    run(client)


def test_bytes_that_are_not_http_get_the_one_shape(run):
    async def client(port, server):
        for junk in (
            b"\x16\x03\x01\x02\x00" * 50,
            b"GET\r\n\r\n",
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        ):
            reader, writer = await dial(port, junk)
            assert error_of(await reader.read(), 400)["code"] == "http_malformed"
            await closed((reader, writer))
        reader, writer = await dial(port, b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert error_of(await reader.read(), 400)["code"] == "http_malformed"
        await closed((reader, writer))

    run(client)


def test_in_a_crowd_the_one_that_has_waited_longest_makes_room(run):
    async def client(port, server):
        waiting = []
        for _ in range(5):
            waiting.append(await dial(port, b"GET"))
            await asyncio.sleep(0.01)
        reader, writer = await dial(port, GET)
        assert b"hello" in await reader.readuntil(b"hello")
        assert [stream[0].at_eof() for stream in waiting] == [True, True, False, False, False]
        await closed((reader, writer), *waiting)

    run(client, max_connections=4, head_seconds=5)


def test_if_all_are_at_work_the_new_one_is_turned_away(run):
    async def client(port, server):
        working = [await dial(port, GET.replace(b"hello", b"pause")) for _ in range(2)]
        await asyncio.sleep(0.05)
        reader, writer = await dial(port)
        assert error_of(answer := await reader.read(), 503)["code"] == "too_many_connections"
        assert b"retry-after: 1" in answer
        assert [(await stream[0].readuntil(b"late"))[:12] for stream in working] == [b"HTTP/1.1 200"] * 2
        await closed((reader, writer), *working)

    run(client, max_connections=2)


def test_a_client_that_takes_nothing_is_cut_off(run):
    async def client(port, server):
        reader, writer = await dial(port, GET.replace(b"hello", b"flood"))
        reader._transport.pause_reading()
        for _ in range(100):
            await asyncio.sleep(0.05)
            if not server.server_state.connections and not server.server_state.tasks:
                break
        assert not server.server_state.connections
        assert not server.server_state.tasks
        await closed((reader, writer))

    run(client)
