"""A real server in a process of its own: what bad input gets, and that the next good request is answered."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import serving
from serving import assert_error


def post(server, body: bytes, **headers: str) -> httpx.Response:
    headers = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx.post(f"{server.url}/tag", content=body, headers=headers, timeout=30)


def assert_still_answering(server) -> None:
    answer = server.tag("Ada Lovelace").raise_for_status().json()
    assert [token["text"] for token in answer["results"][0]["tokens"]] == ["Ada", "Lovelace"]


def texts(*values: object, **fields: object) -> bytes:
    return json.dumps({"texts": values, **fields}).encode()


BAD = {
    "empty text": (texts(""), 422, "the text is empty"),
    "white space": (texts(" \u3000\n"), 422, "the text is empty"),
    "10 MB text": (texts("x" * 10_000_000), 413, "at most 8388608 bytes"),
    "long text": (texts("x" * 200_001), 413, "at most 200000 characters"),
    "10,000 texts": (texts(*["a"] * 10_000), 413, "at most 1000, got 10000"),
    "much text": (texts(*["x" * 200_000] * 11), 413, "2000000 characters in all"),
    "lone surrogate": (b'{"texts": ["a", "ab\\udc80"]}', 400, "texts[1], character 2"),
    "pair in the wrong order": (b'{"texts": ["\\udc80\\ud800"]}', 400, "texts[0], character 0"),
    "surrogate in model": (b'{"texts": ["a"], "model": "\\ud800"}', 400, "model, character 0"),
    "invalid UTF-8": (b'{"texts": ["\xff\xfe"]}', 400, "body, byte 12"),
    "surrogate as bytes": (b'{"texts": ["\xed\xa0\x80"]}', 400, "not valid UTF-8"),
    "UTF-16": (texts("a").decode().encode("utf-16"), 400, "not valid UTF-8"),
    "no body": (b"", 400, "not valid JSON"),
    "not JSON": (b"texts=a", 400, "line 1 column 1"),
    "half of it": (b'{"texts": ["a"', 400, "line 1 column 15"),
    "a list": (b'["a"]', 400, "expected a JSON object, got a list"),
    "null": (b"null", 400, "got null"),
    "no texts": (b"{}", 400, "texts: the field is missing"),
    "texts is empty": (texts(), 400, "the list is empty"),
    "texts is a string": (b'{"texts": "a"}', 400, "expected a list"),
    "texts of numbers": (texts("a", 1.5), 400, "texts[1]: wrong type or value: expected a string, got the number 1.5"),
    "texts of null": (texts(None), 400, "texts[0]"),
    "texts of lists": (texts(["a"]), 400, "texts[0]"),
    "model is a number": (texts("a", model=3), 400, "model"),
    "unknown model": (texts("a", model="tagger-fr"), 422, "expected one of tagger-en, tagger-zh, got tagger-fr"),
    "long model": (texts("a", model="é\n" * 100_000), 422, "expected one of tagger-en, tagger-zh"),
    "unknown field": (texts("a", modle="x"), 400, "modle: unknown field"),
    "NaN": (b'{"texts": ["a"], "model": NaN}', 400, "got NaN"),
    "huge number": (b'{"texts": [1' + b"0" * 100_000 + b"]}", 400, "at most 40 digits"),
    "huge exponent": (b'{"texts": [1e400]}', 400, "got 1e400"),
    "deep nesting": (b'{"texts": ' + b"[" * 1_000_000, 400, "nested too deeply"),
    "deep objects": (b'{"a":' * 200_000, 400, "nested too deeply"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_its_4xx_and_the_next_good_request_its_tags(server, name):
    body, status, said = BAD[name]
    assert_error(post(server, body), status, said)
    assert_still_answering(server)


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/vnd.bentoml+pickle",
        "application/json; charset=latin-1",
    ],
)
def test_other_content_types_are_a_415(server, kind):
    assert_error(post(server, texts("a"), Content_Type=kind), 415, "Content-Type header")
    assert_still_answering(server)


def test_compressed_bodies_are_a_415(server):
    assert_error(post(server, texts("a"), Content_Encoding="gzip"), 415, "Content-Encoding header")


def test_a_chunked_body_is_counted(server):
    def chunks():
        for _ in range(20):
            yield b" " * 2**20

    response = httpx.post(f"{server.url}/tag", content=chunks(), headers={"Content-Type": "application/json"}, timeout=30)
    assert_error(response, 413, "at most 8388608 bytes")
    assert_still_answering(server)


def test_a_large_body_announced_with_expect_is_refused_before_it_is_sent(server):
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), 10) as connection:
        lines = [
            "POST /tag HTTP/1.1",
            "Host: x",
            "Content-Type: application/json",
            "Content-Length: 99999999999",
            "Expect: 100-continue",
        ]
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 413


def test_unknown_routes_wrong_methods_and_odd_paths(server):
    assert_error(httpx.get(f"{server.url}/nothing"), 404, "GET /nothing")
    assert_error(httpx.post(f"{server.url}/%ff%00/..%2f"), 404, "There is nothing at")
    response = httpx.get(f"{server.url}/tag")
    assert_error(response, 405, "not allowed")
    assert response.headers["allow"] == "POST"
    assert_error(httpx.post(f"{server.url}/livez"), 405, "POST /livez is not allowed")
    assert_still_answering(server)


def test_bytes_that_are_not_http_do_no_harm(server):
    address = urlsplit(server.url)
    for junk in (b"\x16\x03\x01\x02\x00" * 50, b"GET\r\n\r\n", b"POST /tag HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n"):
        with socket.create_connection((address.hostname, address.port), 10) as connection:
            connection.sendall(junk)
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert_still_answering(server)


def test_a_bug_is_a_500_with_its_traceback_in_the_log(server):
    response = server.tag("BOOM")
    assert_error(response, 500, "on our side")
    assert "ZeroDivisionError" not in response.text
    log = server.log.read_text()
    assert response.json()["error"]["request_id"] in log
    assert "ZeroDivisionError: a bug of ours" in log
    assert_still_answering(server)


def test_a_validation_error_of_ours_is_not_the_clients(server):
    assert_error(server.tag("INVALID"), 500, "on our side")


def test_neighbours_of_a_bad_text_are_tagged(server):
    results = server.tag("good", "", "BOOM", "better").raise_for_status().json()["results"]
    assert [result.get("error", {}).get("code") for result in results] == [None, "text_empty", "internal", None]


def test_every_caller_gets_its_own_answer(server):
    def caller(number: int) -> None:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            for turn in range(20):
                own = [f"n{number}", "x" * (turn + 1), f"t{turn} BOOM" if turn % 5 == 0 else f"t{turn}"]
                results = client.post("/tag", json={"texts": own}).json()["results"]
                for text, result in zip(own, results, strict=True):
                    right = "error" in result if "BOOM" in text else result["tokens"][0]["text"] == text
                    if not right:
                        wrong.append((text, result))

    wrong: list[object] = []
    threads = [threading.Thread(target=caller, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_health_checks_answer_while_the_worker_is_busy(server):
    slow = threading.Thread(target=server.tag, args=("SLEEP",))
    slow.start()
    time.sleep(0.2)
    started = time.monotonic()
    assert httpx.get(f"{server.url}/livez").status_code == 200
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    assert server.tag("我").status_code == 200  # the other bundle has a worker of its own
    assert time.monotonic() - started < 0.5
    slow.join()


def test_clients_that_hang_up_free_their_place(server):
    for _ in range(3):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/tag", json={"texts": ["SLEEP"] * 50}, timeout=0.2)
    started = time.monotonic()
    assert_still_answering(server)
    # Only what had begun is finished: a batch holds what fits in 20,000 characters, here one round of each client's texts.
    assert time.monotonic() - started < 4


def test_the_page_the_models_and_the_description(server):
    page = httpx.get(f"{server.url}/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert "<title>Convoy</title>" in page.text
    models = httpx.get(f"{server.url}/models").raise_for_status().json()["models"]
    assert [model["name"] for model in models if model["task"] == "tagger"] == ["tagger-en", "tagger-zh"]
    assert {"separator", "live"} <= {model["name"] for model in models if model["task"] == "separator"}
    description = httpx.get(f"{server.url}/docs.json").raise_for_status().json()
    assert {"/tag", "/separate", "/separate/submit", "/separate/cancel"} <= set(description["paths"])
    assert httpx.get(f"{server.url}/static_content/swagger-ui.css").status_code == 404


def test_metrics_hold_no_series_for_paths_that_do_not_exist(server):
    for number in range(5):
        httpx.get(f"{server.url}/made-up-{number}")
    metrics = httpx.get(f"{server.url}/metrics").text
    assert 'route="/tag"' in metrics
    assert "made-up" not in metrics


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_accepted_is_answered_before_the_server_stops(tmp_path, number):
    answers: list[httpx.Response] = []
    with serving.serving("fake_service:Fake", tmp_path, {"PYTHONPATH": str(Path(__file__).parent)}) as server:
        caller = threading.Thread(target=lambda: answers.append(server.tag("SLEEP")))
        caller.start()
        time.sleep(0.4)
        server.process.send_signal(number)
        caller.join()
    assert [answer.status_code for answer in answers] == [200]
