"""Recordings over HTTP: a real server, in a process of its own, over fake separators."""

from __future__ import annotations

import io
import socket
import threading
import time
import zipfile
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from fake_service import GAINS
from recordings import file_part, form, read, recording, samples, text_part
from serving import assert_error, patient


@pytest.fixture
def server(watched_server):
    return watched_server


def post(server, body, kind: str = "multipart/form-data; boundary=x", **headers: str) -> httpx.Response:
    headers = {"Content-Type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx.post(f"{server.url}/separate", content=body, headers=headers, timeout=30)


@pytest.mark.parametrize(("rate", "channels", "kind"), [(8000, 1, "WAV"), (44_100, 2, "FLAC"), (16_000, 1, "OGG")])
def test_a_recording_comes_back_with_a_channel_per_speaker(server, rate, channels, kind):
    response = server.separate(recording(kind, rate=rate, channels=channels), "Täg: der.mp3")
    values, got = read(response.content)
    assert (values.shape, got) == ((rate, 2), rate)
    assert response.headers["content-type"] == "audio/wav"
    assert response.headers["content-length"] == str(len(response.content))
    assert "T%C3%A4g%20der-voices.wav" in response.headers["content-disposition"]


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_zip_holds_a_file_per_speaker(server, kind):
    response = server.separate(recording(), "talk.ogg", output="files", format=kind)
    assert response.headers["content-type"] == "application/zip"
    assert response.headers["content-disposition"] == 'attachment; filename="talk-voices.zip"'
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.namelist() == [f"talk-voices-{number}.{kind}" for number in (1, 2)]
        voices = [read(archive.read(name))[0] for name in archive.namelist()]
    assert np.allclose(np.hstack(voices), samples() @ GAINS.T, atol=1e-4)


def test_a_bare_body_is_taken_too(server):
    address = f"{server.url}/separate?format=flac&model=live"
    response = httpx.post(address, content=recording("FLAC"), headers={"Content-Type": "audio/flac"})
    assert response.headers["content-type"] == "audio/flac"
    assert read(response.content)[0].shape == (8000, 2)


BAD = {
    "not audio": (form(file_part(b"%PDF-1.7 " * 100)), 415, "not a recording"),
    "an address in the file field": (form(text_part("audio", b"http://127.0.0.1:9/talk.wav")), 400, "Addresses are not fetched"),
    "a text in the file field": (form(text_part("audio", b"talk.wav")), 400, "a text where a file is due"),
    "an address in the file": (form(file_part(b"http://127.0.0.1:9/talk.wav")), 415, "not a recording"),
    "zero length": (form(file_part(b"")), 400, "the file is empty"),
    "no file": (form(text_part("model", b"live")), 400, "audio: the field is missing"),
    "a broken form": (form(file_part(recording()))[:-9], 400, "the form ends early"),
    "no form": (recording(), 400, "not a multipart form"),
    "an unknown field": (form(file_part(recording()), text_part("modle", b"live")), 400, "modle: unknown field"),
    "an unknown output": (form(file_part(recording()), text_part("output", b"mp3")), 400, "'channels' or 'files'"),
    "an unknown model": (form(file_part(recording()), text_part("model", b"x")), 422, "expected one of separator, slow, live"),
    "61 seconds": (form(file_part(recording("FLAC", 61))), 413, "expected at most 60 s, got 61.0 s"),
    "large voices": (form(file_part(recording("FLAC", 59, 48_000, level=0))), 413, "at most 20000000 bytes of voices"),
    "a large body": (form(file_part(recording(seconds=200))), 413, "at most 2000000 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_its_4xx(server, name):
    body, status, said = BAD[name]
    assert_error(post(server, body), status, said)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/json", "application/x-www-form-urlencoded", "application/vnd.bentoml+pickle"]
)
def test_other_content_types_are_a_415(server, kind):
    assert_error(post(server, b"audio=http%3A%2F%2F127.0.0.1%3A9", kind), 415, "Content-Type header")


def test_a_large_body_is_counted_and_its_content_length_not_believed(server):
    def chunks():
        yield b"--x\r\n" + file_part(b"")
        for _ in range(100):
            yield bytes(100_000)

    assert_error(post(server, chunks()), 413, "at most 2000000 bytes")


def test_an_answer_that_comes_before_the_body_has_is_heard(server):
    def chunks():
        yield b"this is no form" * 100_000
        for _ in range(200):
            yield bytes(100_000)

    assert_error(post(server, chunks()), 400, "not a multipart form")


def test_wrong_methods(server):
    response = httpx.get(f"{server.url}/separate")
    assert_error(response, 405, "not allowed")
    assert response.headers["allow"] == "POST"
    assert_error(httpx.post(f"{server.url}/separate/status"), 405, "not allowed")
    assert_error(httpx.get(f"{server.url}/separate/stream"), 426, "is a WebSocket")
    assert_error(httpx.get(f"{server.url}/separate/"), 404, "nothing at")


def test_a_bug_is_a_500_with_its_traceback_in_the_log(server):
    response = server.separate(recording(), model="BOOM")
    assert_error(response, 500, "on our side")
    assert "ZeroDivisionError: a bug of ours" in server.log.read_text()


def test_health_checks_and_tags_are_quick_during_a_separation(server):
    slow = threading.Thread(target=server.separate, args=(recording(seconds=2),), kwargs={"model": "slow"})
    slow.start()
    time.sleep(0.3)
    with httpx.Client(base_url=server.url) as client:
        client.get("/livez")
        seconds = []
        for _ in range(10):
            started = time.monotonic()
            assert client.get("/livez").status_code == 200
            assert client.post("/tag", json={"texts": ["Ada"]}).status_code == 200
            seconds.append(time.monotonic() - started)
    assert slow.is_alive()
    slow.join()
    assert sorted(seconds)[5] < 0.1


def test_past_the_bound_calls_are_turned_away_with_a_time_to_come_back(server):
    content = recording(seconds=1)
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(server.separate(content, model="slow"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert_error(refused, 429, "too much work is waiting")
    assert int(refused.headers["retry-after"]) >= 1


def test_a_client_that_hangs_up_stops_the_work(server):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/separate", files={"audio": recording(seconds=50)}, data={"model": "slow"}, timeout=0.5)
    started = time.monotonic()
    patient(server, recording()).raise_for_status()
    assert time.monotonic() - started < 2  # the work would have taken 40 s


def test_a_client_that_hangs_up_while_sending_leaves_nothing(server, place):
    address = urlsplit(server.url)
    head = "POST /separate HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\nContent-Length: 1000000\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), 10) as connection:
        connection.sendall(head.encode() + recording())
        time.sleep(0.3)
        assert [path for path in place.glob("*/*") if path.name != "lock"]


def test_a_client_that_hangs_up_while_reading_leaves_nothing(server):
    content = recording("FLAC", 50)
    with httpx.stream("POST", f"{server.url}/separate", files={"audio": content}, timeout=30) as response:
        assert response.status_code == 200
        next(response.iter_raw())
