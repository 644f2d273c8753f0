"""API keys: what is a key, who may enter, and that keys change without a restart."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging

import pytest
from layers import calls, layered
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

from models.errors import ConfigError
from services.identity import caller
from services.keys import Keys, parse, presented
from services.settings import Settings

ALICE, BOB = "alice-0123456789abcdef", "bob~0123456789+/=ABCDEF"
DIGEST = hashlib.sha256(BOB.encode()).hexdigest()


async def whoami(request: Request):
    return PlainTextResponse(caller.get())


ROUTES = [Route(path, whoami) for path in ("/", "/page/main.js", "/whoami", "/livez", "/metrics")]


def test_entries_are_names_with_keys_or_digests():
    lines = ["# comment", "", f"alice: {ALICE}", f"  bob:sha256:{DIGEST.upper()}  "]
    assert sorted(parse(lines, "f").values()) == ["alice", "bob"]
    assert list(parse([f"sha256:{DIGEST}"], "f").values()) == [f"key-{DIGEST[:8]}"] == list(parse([BOB], "f").values())
    assert parse([f"alice: {ALICE}", f"alice: {BOB}"], "f").keys() == parse([ALICE, BOB], "f").keys()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("alice: short", "at least 16"),
        ("alice: with space 0123456789", "not an API key"),
        (f"a b: {ALICE}", "not an API key"),
        ("alice: sha256:abc", "not an API key"),
        (f"alice: {ALICE}\nmallory: {ALICE}", "two names"),
        ("ключ-0123456789abcdef", "not an API key"),
    ],
)
def test_what_is_no_key_is_refused_without_being_shown(line, said):
    with pytest.raises(ConfigError, match=said) as refused:
        parse(line.split("\n"), "keys.txt")
    assert "0123456789" not in str(refused.value)


def test_a_service_that_asks_for_keys_has_some(tmp_path):
    assert Keys.given("", "") is None
    (tmp_path / "keys").write_text("# none yet\n")
    for keys, file in (("", tmp_path / "keys"), ("", tmp_path / "missing"), (" , ", "")):
        with pytest.raises(ConfigError):
            Keys.given(keys, str(file))
    (tmp_path / "keys").write_text(f"bob: sha256:{DIGEST}\n")
    both = Keys.given(f"alice: {ALICE}", str(tmp_path / "keys"))
    assert [both.name_of(key) for key in (ALICE, BOB, DIGEST, "", ALICE[:-1], "é\udcff")] == [
        "alice",
        "bob",
        None,
        None,
        None,
        None,
    ]


def test_keys_change_without_a_restart(tmp_path, caplog):
    file = tmp_path / "keys"
    file.write_text(f"alice: {ALICE}\n")
    keys = Keys([], file, check_seconds=0)

    def replaced(text: str) -> list[str | None]:
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").replace(file)  # as mounted secrets change
        return [keys.name_of(ALICE), keys.name_of(BOB)]

    assert replaced(f"alice: {ALICE}\nbob: {BOB}\n") == ["alice", "bob"]
    assert replaced(f"alice: {BOB}\n") == [None, "alice"]
    with caplog.at_level(logging.ERROR, "convoy.keys"):
        assert replaced("nonsense here\n") == [None, "alice"]
        file.unlink()
        assert keys.name_of(BOB) == "alice"
    assert [record.levelname for record in caplog.records].count("ERROR") == 2  # once for each state of the file
    assert replaced("") == [None, None]  # whoever empties the file means it
    file.write_text(f"bob: {BOB}\n")
    assert keys.name_of(BOB) == "bob"


def test_the_file_is_looked_at_once_a_while(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"alice: {ALICE}\n")
    keys = Keys([], file, check_seconds=60)
    assert keys.name_of(ALICE) == "alice"
    file.write_text(f"bob: {BOB}\n")
    assert keys.name_of(BOB) is None


def coded(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": f"Bearer {BOB}".encode()},
        {b"authorization": f"bearer   {BOB} ".encode()},
        {b"x-api-key": BOB.encode()},
        {b"authorization": b"Basic Zm9vOmJhcg==", b"x-api-key": BOB.encode()},
        {b"sec-websocket-protocol": f"convoy, convoy.key.{coded(BOB)}".encode()},
    ],
)
def test_keys_come_in_either_header_or_as_a_subprotocol(headers):
    assert presented(headers) == BOB


def test_what_is_no_key_presents_none():
    assert presented({}) == presented({b"authorization": b"Bearer"}) == presented({b"sec-websocket-protocol": b"convoy"}) == ""
    assert presented({b"sec-websocket-protocol": b"convoy.key.\xff!"})  # nobody's, but presented


def test_everything_but_probes_and_the_page_needs_a_key(caplog):
    app = layered(ROUTES, Settings(), keys=Keys([f"alice: {ALICE}", f"bob: sha256:{DIGEST}"]))
    open_paths = calls(app, *(("GET", path) for path in ("/", "/page/main.js", "/livez", "/metrics")))
    assert [answer.status_code for answer in open_paths] == [200] * 4
    with caplog.at_level(logging.DEBUG):
        missing, wrong, unknown_route, posted, good, other = calls(
            app,
            ("GET", "/whoami"),
            ("GET", "/whoami", {"headers": {"X-API-Key": f"{ALICE}x"}}),
            ("GET", "/made-up"),
            ("POST", "/"),
            ("GET", "/whoami", {"headers": {"Authorization": f"Bearer {ALICE}"}}),
            ("GET", "/whoami", {"headers": {"X-API-Key": BOB}}),
        )
    assert [answer.status_code for answer in (missing, wrong, unknown_route, posted)] == [401] * 4
    assert missing.json()["error"]["code"] == "key_missing"
    assert missing.headers["www-authenticate"] == 'Bearer realm="convoy"'
    assert wrong.json()["error"]["code"] == "key_unknown"
    assert "invalid_token" in wrong.headers["www-authenticate"]
    assert (good.text, other.text) == ("alice", "bob")
    assert not [key for key in (ALICE, BOB) if key in caplog.text + missing.text + wrong.text]


def test_probes_can_be_closed_too():
    settings = Settings(open_paths="/livez")
    app = layered(ROUTES, settings, keys=Keys([f"alice: {ALICE}"]))
    assert [answer.status_code for answer in calls(app, ("GET", "/livez"), ("GET", "/metrics"))] == [200, 401]
    app = layered(ROUTES, Settings(open_paths="none"), keys=Keys([f"alice: {ALICE}"]))
    assert [answer.status_code for answer in calls(app, ("GET", "/livez"), ("GET", "/"))] == [401, 200]


def test_without_keys_everybody_may_call_and_has_no_name():
    [answer] = calls(layered(ROUTES, Settings()), ("GET", "/whoami", {"headers": {"X-API-Key": ALICE}}))
    assert (answer.status_code, answer.text) == (200, "")


@pytest.mark.parametrize("denies", [True, False])
def test_websockets_are_refused_before_the_handshake(denies):
    names: list[str] = []

    async def talk(socket):
        names.append(caller.get())
        await socket.accept()
        await socket.close()

    async def main() -> list[list[dict]]:
        app = layered([WebSocketRoute("/s", talk)], Settings(), keys=Keys([f"alice: {ALICE}"]))
        answers = []
        for headers in ([], [(b"sec-websocket-protocol", f"convoy, convoy.key.{coded(ALICE)}".encode())]):
            sent: list[dict] = []

            async def receive():
                return {"type": "websocket.connect"}

            async def send(message, sent=sent):
                sent.append(message)

            scope = {"type": "websocket", "path": "/s", "root_path": "", "headers": headers}
            await app(scope | ({"extensions": {"websocket.http.response": {}}} if denies else {}), receive, send)
            answers.append(sent)
        return answers

    refused, accepted = asyncio.run(main())
    if denies:
        assert (refused[0]["type"], refused[0]["status"]) == ("websocket.http.response.start", 401)
        assert (b"www-authenticate", b'Bearer realm="convoy"') in refused[0]["headers"]
        assert json.loads(refused[1]["body"])["error"]["code"] == "key_missing"
    else:
        assert refused == [{"type": "websocket.close", "code": 1008}]
    assert accepted[0]["type"] == "websocket.accept"
    assert names == ["alice"]
