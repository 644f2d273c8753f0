"""The log: a line for each request, with sizes and names and no content."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from datetime import datetime

import pytest
from layers import calls, layered
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

from models.errors import ConfigError
from services import access_log
from services.keys import Keys
from services.record import Record, note
from services.settings import Settings

KEY = "0123456789abcdef"


async def measure(request: Request):
    note(models=["tagger-en"], texts=2)
    await asyncio.to_thread(note, audio_seconds=1.5)
    return PlainTextResponse("é" * len(await request.body()))


async def bug(request: Request):
    raise KeyError("secret")


ROUTES = [Route("/measure/{name}", measure, methods=["POST"]), Route("/livez", measure), Route("/bug", bug)]


@pytest.fixture
def configure():
    """`access_log.configure` over what BentoML would have set up; what pytest has is put back afterwards."""
    names = ("", "convoy.access", "bentoml", "uvicorn.error", "uvicorn.access")
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.level, logger.propagate, logger.handlers) for logger in loggers]

    def configured(form: str) -> None:
        for logger in loggers:
            logger.handlers = []
        logging.getLogger().handlers = [logging.StreamHandler(sys.stdout)]
        access_log.configure(form)

    yield configured
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate, logger.handlers = propagate, handlers


def test_a_request_is_one_line_of_json_without_content(configure, capsys):
    configure("json")
    app = layered(ROUTES, Settings(), keys=Keys([f"lab: {KEY}"]))
    headers = {"X-API-Key": KEY, "X-Request-Id": "abc"}
    calls(app, ("POST", "/measure/private-name?q=private-query", {"headers": headers, "content": b"private-body"}))
    text = capsys.readouterr().out
    line = json.loads(text)
    assert line.pop("ms") > 0
    assert datetime.fromisoformat(line.pop("ts")).tzinfo is not None
    sizes = {"bytes_in": 12, "bytes_out": 24, "models": ["tagger-en"], "texts": 2, "audio_seconds": 1.5}
    about = {"event": "request", "id": "abc", "method": "POST", "route": "/measure/{name}", "status": 200, "key": "lab"}
    assert line == about | sizes
    assert not [secret for secret in ("private", KEY) if secret in text]


def test_errors_have_their_code_and_ours_their_traceback_in_one_line(configure, capsys):
    configure("json")
    calls(
        layered(ROUTES, Settings()), ("GET", "/private"), ("GET", "/bug", {"headers": {"X-Request-Id": "abc"}}), ("GET", "/livez")
    )
    unknown, error, bug_line = map(json.loads, capsys.readouterr().out.splitlines())
    assert (unknown["status"], unknown["code"], "route" in unknown) == (404, "not_found", False)
    assert (error["level"], error["logger"], error["id"]) == ("ERROR", "convoy.http", "abc")
    assert "KeyError: 'secret'" in error["exception"]
    assert (bug_line["status"], bug_line["code"], bug_line["route"]) == (500, "internal", "/bug")


def test_text_for_people_and_silence(configure, capsys):
    configure("text")
    calls(layered(ROUTES, Settings()), ("POST", "/measure/x", {"content": b"x"}))
    assert "request" in (line := capsys.readouterr().out)
    assert "route=/measure/{name} status=200" in line
    assert "models=tagger-en" in line
    configure("off")
    calls(layered(ROUTES, Settings()), ("POST", "/measure/x", {"content": b"x"}), ("GET", "/bug"))
    assert capsys.readouterr().out.startswith("request ")  # but for our own mistakes
    configure("")  # no terminal here
    calls(layered(ROUTES, Settings()), ("POST", "/measure/x", {"content": b"x"}))
    assert json.loads(capsys.readouterr().out)["event"] == "request"
    with pytest.raises(ConfigError, match="CONVOY_LOG"):
        configure("xml")


def test_a_websocket_is_a_line_when_it_is_over(configure, capsys):
    configure("json")

    async def talk(socket):
        await socket.accept()
        await socket.send_text("é")
        await socket.send_bytes(await socket.receive_bytes())
        await socket.receive()

    async def main():
        messages = [
            {"type": "websocket.connect"},
            {"type": "websocket.receive", "bytes": b"12345"},
            {"type": "websocket.disconnect", "code": 1001},
        ]

        async def receive():
            return messages.pop(0)

        async def send(message):
            pass

        scope = {"type": "websocket", "path": "/s", "root_path": "", "headers": []}
        await layered([WebSocketRoute("/s", talk)], Settings())(scope, receive, send)

    asyncio.run(main())
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["route"], line["status"], line["close"]) == ("stream", "/s", 101, 1001)
    assert (line["bytes_in"], line["bytes_out"]) == (5, 7)


def test_a_job_is_a_line_under_its_requests_id(configure, capsys):
    configure("json")
    record = Record("abc", {}, key="lab", code="audio_unreadable", facts={"audio_seconds": 3.0})
    access_log.write_job(record, "separate", "failed")
    line = json.loads(capsys.readouterr().out)
    assert line.pop("ms") >= 0
    del line["ts"]
    known = {"event": "job", "id": "abc", "kind": "separate", "state": "failed", "key": "lab"}
    assert line == known | {"code": "audio_unreadable", "audio_seconds": 3.0}


def test_lines_stay_lines_whatever_is_said(configure, capsys):
    configure("json")
    logging.getLogger("convoy.http").error("two\nlines, \x1b[31m and \udcff")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["message"] == "two\nlines, \x1b[31m and \udcff"


def test_a_client_that_hangs_up_is_a_499(capsys):
    async def wait(request: Request):
        await request.body()
        await asyncio.sleep(60)

    async def main():
        messages = [{"type": "http.request", "body": b""}, {"type": "http.disconnect"}]

        async def receive():
            return messages.pop(0)

        scope = {"type": "http", "method": "POST", "path": "/w", "root_path": "", "query_string": b"", "headers": []}
        await layered([Route("/w", wait, methods=["POST"])], Settings())(scope, receive, None)

    lines: list[dict] = []
    original = access_log.write_request
    access_log.write_request = lambda record: lines.append({"status": record.status})
    try:
        asyncio.run(main())
    finally:
        access_log.write_request = original
    assert lines == [{"status": 499}]
