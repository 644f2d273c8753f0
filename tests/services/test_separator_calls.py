"""Task calls and live streams: a real server, in a process of its own, over fake separators."""

from __future__ import annotations

import json
import signal
import socket
import struct
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import serving
from fake_service import GAINS
from httpx_ws import WebSocketDisconnect, connect_ws
from recordings import read, recording, samples
from serving import assert_error


@pytest.fixture
def server(watched_server):
    return watched_server


def task(server, call: str, task_id: str | None, method: str = "GET") -> httpx.Response:
    return httpx.request(method, f"{server.url}/separate/{call}", params={"task_id": task_id} if task_id else {}, timeout=30)


def submit(server, content: bytes, **fields: str) -> httpx.Response:
    return httpx.post(f"{server.url}/separate/submit", files={"audio": ("talk.wav", content)}, data=fields, timeout=30)


def await_status(server, task_id: str, *wanted: str) -> dict:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = task(server, "status", task_id).raise_for_status().json()
        if found["status"] in wanted:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{found} never became {wanted}")


def await_forgotten(server, task_id: str) -> None:
    """Until its time is over, so that there is room for others."""
    deadline = time.monotonic() + 20
    while (found := task(server, "status", task_id)).is_success:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert_error(found, 404, "no such task")


def test_a_submitted_recording_can_be_fetched_when_it_is_done_until_its_time_is_over(server):
    response = submit(server, recording(), model="slow")
    assert response.status_code == 202
    task_id = response.json()["task_id"]
    assert_error(task(server, "get", task_id), 409, "not finished")
    done = await_status(server, task_id, "completed")
    assert done["progress"] == 1.0
    for _ in range(2):
        result = task(server, "get", task_id).raise_for_status()
        assert read(result.content)[0].shape == (8000, 2)
        assert result.headers["content-disposition"] == 'attachment; filename="talk-voices.wav"'
    part = httpx.get(f"{server.url}/separate/get?task_id={task_id}", headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"RIFF")
    await_forgotten(server, task_id)


def test_a_task_that_fails_says_why(server):
    bad = submit(server, b"not a recording").json()["task_id"]
    assert await_status(server, bad, "failed")["error"]["code"] == "audio_unsupported"
    assert_error(task(server, "get", bad), 415, "not a recording")
    bug = submit(server, recording(), model="BOOM").json()["task_id"]
    assert await_status(server, bug, "failed")["error"]["code"] == "internal"
    assert_error(task(server, "get", bug), 500, "on our side")
    assert_error(submit(server, recording(), model="x"), 422, "unknown model")
    await_forgotten(server, bug)


def test_a_task_can_be_cancelled_and_too_many_are_turned_away(server):
    ids = [submit(server, recording(seconds=50), model="slow").json()["task_id"] for _ in range(3)]
    assert_error(submit(server, recording()), 429, "too many tasks")
    assert await_status(server, ids[0], "in_progress")["progress"] < 0.5
    assert task(server, "status", ids[2]).json()["status"] == "pending"
    for task_id in ids:
        assert task(server, "cancel", task_id, "PUT").json()["status"] == "canceled"
        assert_error(task(server, "get", task_id), 410, "cancelled")
    await_forgotten(server, ids[-1])
    assert_error(task(server, "cancel", ids[0], "PUT"), 404, "no such task")


def test_task_calls_need_an_id(server):
    for call, method in (("status", "GET"), ("get", "GET"), ("cancel", "PUT")):
        assert_error(task(server, call, None, method), 400, "task_id: the parameter is missing")
        assert_error(task(server, call, "../../etc/passwd", method), 404, "no such task")


def stream(server, query: str = "", **options):
    return connect_ws(f"{server.url}/separate/stream{query}", **options)


def finish(ws) -> tuple[bytes, dict]:
    """The audio that is left, and the last text."""
    audio = b""
    while True:
        message = ws.receive(timeout=10)
        if isinstance(message.data, str):
            return audio, json.loads(message.data)
        audio += message.data


def test_a_live_stream_over_a_real_socket(server):
    values = (samples()[:, 0] * 32768).astype("<i2")
    with stream(server, "?sample_rate=16000") as ws:
        start = json.loads(ws.receive_text())
        assert (start["sources"], start["sample_rate"], start["model"]) == (["first", "second"], 16_000, "live")
        for at in range(0, 2 * len(values), 333):
            ws.send_bytes(values.tobytes()[at : at + 333])
        ws.send_text('{"type": "end"}')
        audio, end = finish(ws)
        assert end == {"type": "end", "samples": 8000}
        with pytest.raises(WebSocketDisconnect) as caught:
            ws.receive(timeout=5)
        assert caught.value.code == 1000
    voices = np.frombuffer(audio, "<i2").reshape(-1, 2)
    assert np.abs(voices - values[:, None] * GAINS.T).max() <= 1


def refused(server, query: str, said: str, code: int) -> None:
    with stream(server, query) as ws:
        error = json.loads(ws.receive_text())["error"]
        assert said in error["message"]
        assert error["request_id"] != "-"
        with pytest.raises(WebSocketDisconnect) as caught:
            ws.receive(timeout=5)
        assert caught.value.code == code


def raw_stream(server, query: str = "", **headers: str) -> socket.socket:
    """A WebSocket by hand, which can vanish without a goodbye."""
    address = urlsplit(server.url)
    own = {"Host": address.netloc, "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    lines = [f"{name}: {value}" for name, value in (own | {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} | headers).items()]
    connection = socket.create_connection((address.hostname, address.port), 10)
    connection.sendall("\r\n".join([f"GET /separate/stream{query} HTTP/1.1", *lines, "", ""]).encode())
    return connection


def vanish(connection: socket.socket) -> None:
    """Reset the connection, as a crash does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def await_places(server) -> float:
    """Seconds until two streams can be opened."""
    started = time.monotonic()
    while True:
        with stream(server) as first, stream(server) as second:
            texts = [json.loads(ws.receive_text()) for ws in (first, second)]
        if all("error" not in said for said in texts):
            return time.monotonic() - started
        assert time.monotonic() - started < 5
        time.sleep(0.02)


def test_streams_are_limited_and_a_vanished_client_frees_its_place(server):
    await_places(server)
    with stream(server) as first:
        first.receive_text()
        second = raw_stream(server)
        assert second.recv(1000).startswith(b"HTTP/1.1 101")
        time.sleep(0.1)
        refused(server, "", "too many live streams", 1013)
    vanish(second)
    assert await_places(server) < 1.5  # silence would take two seconds


def test_a_client_that_vanishes_in_the_middle_of_slow_work_frees_its_place_too(server):
    await_places(server)
    for _ in range(2):
        connection = raw_stream(server, "?model=slow-live")
        assert connection.recv(1000).startswith(b"HTTP/1.1 101")
        connection.sendall(b"\x82\xfe" + struct.pack(">H", 40_000) + bytes(4) + bytes(40_000))  # ten slices of 0.1 s each
        time.sleep(0.05)
        vanish(connection)
    assert await_places(server) < 0.7


def test_an_idle_stream_is_closed(server):
    with stream(server) as ws:
        ws.receive_text()
        error = json.loads(ws.receive_text(timeout=5))["error"]
        assert error["code"] == "stream_idle"


def test_what_a_stream_refuses(server):
    refused(server, "?sample_rate=1", "an odd rate", 1008)
    refused(server, "?model=separator", "the model is not causal: expected one of live", 1008)
    refused(server, "?model=x", "unknown model", 1008)
    refused(server, "?model=BOOM-live", "on our side", 1011)


def test_pages_of_other_sites_are_refused(server):
    await_places(server)
    for origin, status in (("https://evil.example", b"403"), (server.url, b"101")):
        with raw_stream(server, Origin=origin) as connection:
            assert connection.recv(1000).split(b"\r\n")[0].split()[1] == status


def test_an_unknown_websocket_is_refused(server):
    with pytest.raises(Exception, match="404"), connect_ws(f"{server.url}/nothing"):
        pass


def test_a_server_that_stops_does_not_wait_for_streams_and_gives_its_tasks_back(tmp_path):
    environment = {"CONVOY_TEMPORARY": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent)}
    with serving.serving("fake_service:Fake", tmp_path, environment) as running:
        task_id = submit(running, recording(seconds=50), model="slow").json()["task_id"]
        await_status(running, task_id, "in_progress")
        connection = raw_stream(running)
        assert connection.recv(1000).startswith(b"HTTP/1.1 101")
        started = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(20)
    assert time.monotonic() - started < 10
    connection.close()
    assert not list(tmp_path.glob("convoy-*"))
    folder = tmp_path / "jobs" / "separate" / task_id
    assert (folder / "attempts").read_text() == "0"
    assert {path.name for path in folder.iterdir()} <= {"upload", "job.json", "attempts", "progress"}
