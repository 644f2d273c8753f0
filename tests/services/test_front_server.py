"""Everything before the endpoints, in a real server of two workers: keys, CORS, logs, metrics, traces, crowds of connections."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import serving
from httpx_ws import WebSocketUpgradeError, connect_ws
from otlp import Collector, collecting
from prometheus_client.parser import text_string_to_metric_families
from recordings import recording
from serving import assert_error

KEY, ORIGIN = "laboratory-0123456789", "https://friend.example"
CALLER = {"Authorization": f"Bearer {KEY}"}
SECRETS = (KEY, "Lovelace", "private")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[serving.Server]:
    folder = tmp_path_factory.mktemp("front")
    (folder / "keys").write_text(f"# ours\nlaboratory: {KEY}\n")
    environment = {
        "CONVOY_API_KEYS_FILE": str(folder / "keys"),
        "CONVOY_CORS_ORIGINS": ORIGIN,
        "CONVOY_HEAD_SECONDS": "1",
        "CONVOY_MAX_CONNECTIONS": "40",
        "CONVOY_OTLP": collector.url,
        "CONVOY_WORKERS": "2",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    with serving.serving("fake_service:Fake", folder, environment) as running:
        yield running


def tag(server: serving.Server, *texts: str, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/tag", json={"texts": texts}, headers=headers or CALLER, timeout=10)


def lines(server: serving.Server) -> list[dict]:
    """What the workers said; the supervisor's own lines are for people."""
    return [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]


def line_of(server: serving.Server, request: str) -> dict:
    deadline = time.monotonic() + 5
    while not (found := [line for line in lines(server) if line.get("id") == request and "event" in line]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(found) == 1
    return found[0]


def metric(server: serving.Server, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def test_a_key_is_asked_for_everywhere_but_at_probes_and_the_page(server):
    assert [httpx.get(f"{server.url}{path}").status_code for path in ("/livez", "/readyz", "/metrics", "/")] == [200] * 4
    page = httpx.get(f"{server.url}/").text
    script = page.partition('src="')[2].partition('"')[0]
    assert httpx.get(f"{server.url}/{script}").status_code == 200
    for path in ("/models", "/docs.json", "/schema.json", "/nothing"):
        assert_error(refused := httpx.get(f"{server.url}{path}"), 401, "an API key is needed")
        assert refused.headers["www-authenticate"].startswith("Bearer")
    assert_error(tag(server, "a", Authorization="Bearer wrong-0123456789"), 401, "not known")
    assert_error(tag(server, "a", Authorization="Bearer wrong-0123456789", Origin=ORIGIN), 401, "not known")
    assert tag(server, "a", **CALLER, Origin=ORIGIN).headers["access-control-allow-origin"] == ORIGIN
    assert tag(server, "a", **{"X-API-Key": KEY}).status_code == 200


def test_the_log_has_a_line_for_a_request_and_no_content(server):
    answer = tag(server, "Ada Lovelace", "我", **CALLER, **{"X-Request-Id": "line-1"})
    line = line_of(server, "line-1")
    known = {"event": "request", "method": "POST", "route": "/tag", "status": 200, "key": "laboratory", "texts": 2}
    sizes = {"characters": 13, "models": ["tagger-en", "tagger-zh"], "bytes_out": len(answer.content)}
    assert line.items() >= (known | sizes).items()
    assert line["bytes_in"] == len(answer.request.content)
    assert 0 < line["ms"] < 5000
    httpx.get(f"{server.url}/private-path?private=1", headers={**CALLER, "X-Request-Id": "line-2"})
    assert "route" not in line_of(server, "line-2")
    assert not [line for line in lines(server) if line.get("route") in {"/livez", "/readyz", "/metrics"}]
    text = server.log.read_text()
    assert not [secret for secret in SECRETS if secret in text]
    # No other access log beside ours, and startup that people can read.
    assert "HTTP/1.1" not in text
    assert "scheme=http" not in text
    assert "listening on" in text.splitlines()[0]


def test_workers_count_together(server):
    def numbers() -> list[float]:
        ok = metric(server, "convoy_requests_total", route="/tag", status="200")
        names = ("convoy_tag_tokens_total", "convoy_tag_batch_size_count", "convoy_tag_batch_size_sum")
        return [ok, *(metric(server, name) for name in names), metric(server, "convoy_request_seconds_count", route="/tag")]

    before = numbers()
    for _ in range(20):  # each on a connection of its own: both workers get some
        assert tag(server, "a b c", "d").status_code == 200
    requests, tokens, batches, texts, timed = (now - then for now, then in zip(numbers(), before, strict=True))
    assert (requests, tokens, texts, timed) == (20, 80, 40, 20)
    assert 20 <= batches <= 40
    assert metric(server, "convoy_queue_length", task="tag") == 0
    names = httpx.get(f"{server.url}/metrics").text
    assert "bentoml" not in names


def test_gauges_tell_of_now(server):
    slow = threading.Thread(target=tag, args=(server, "SLEEP"))
    slow.start()
    time.sleep(0.3)
    assert metric(server, "convoy_requests_in_flight") >= 2  # that one, and the scrape
    slow.join()
    with connect_ws(f"{server.url}/separate/stream", headers=dict(CALLER)) as ws:
        assert json.loads(ws.receive_text())["type"] == "start"
        assert metric(server, "convoy_streams") == 1


def test_a_stream_takes_its_key_as_a_subprotocol(server):
    address = f"{server.url}/separate/stream"
    with pytest.raises(WebSocketUpgradeError) as refused, connect_ws(address):
        pass
    assert refused.value.response.status_code == 401
    coded = base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("=")
    heard = metric(server, "convoy_separate_audio_seconds_total")
    with connect_ws(
        address, subprotocols=["convoy", f"convoy.key.{coded}"], headers={"Origin": ORIGIN, "X-Request-Id": "stream-1"}
    ) as ws:
        assert ws.subprotocol == "convoy"
        ws.receive_text()
        ws.send_bytes(bytes(8000))
        ws.send_text('{"type": "end"}')
        while not isinstance(ws.receive(timeout=5).data, str):
            pass
    line = line_of(server, "stream-1")
    known = {"event": "stream", "route": "/separate/stream", "status": 101, "key": "laboratory", "model": "live"}
    assert line.items() >= (known | {"audio_seconds": 0.5, "close": 1000}).items()
    assert line["bytes_in"] >= 8000
    assert coded not in server.log.read_text()
    assert metric(server, "convoy_separate_audio_seconds_total") == heard + 0.5


def test_requests_are_traced(server, collector):
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    tag(server, "a", **CALLER, traceparent=f"00-{trace}-{parent}-01")
    # Earlier requests left spans of the same names: those of this one are told by its trace.
    collector.wait_for(lambda _: {"queue", "predict", "POST /tag"} <= set(collector.of(trace)))
    request, attributes = collector.of(trace)["POST /tag"]
    assert request.parent_span_id.hex() == parent
    assert attributes.items() >= {"convoy.key": "laboratory", "convoy.texts": 1, "http.response.status_code": 200}.items()
    assert not [secret for secret in SECRETS if secret in str(collector.spans)]


def test_a_job_is_logged_counted_and_traced_when_it_is_over(server, collector):
    headers = {**CALLER, "X-Request-Id": "submit-1"}
    heard = metric(server, "convoy_separate_audio_seconds_total")
    files = {"audio": ("private.wav", recording())}
    submitted = httpx.post(f"{server.url}/separate/submit", files=files, headers=headers, timeout=20).raise_for_status().json()
    deadline = time.monotonic() + 20
    while not (found := [line for line in lines(server) if line.get("event") == "job"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    known = {"id": "submit-1", "kind": "separate", "state": "completed", "key": "laboratory", "model": "separator"}
    assert found[0].items() >= (known | {"audio_seconds": 1.0}).items()
    assert metric(server, "convoy_separate_audio_seconds_total") == heard + 1
    while metric(server, "convoy_jobs", state="completed") < 1:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    collector.wait_for(lambda names: "job separate" in names)
    text = server.log.read_text()
    assert submitted["task_id"] not in text
    assert "private" not in text


def test_an_address_in_a_file_field_is_not_fetched(server):
    with socket.socket() as bait:
        bait.bind(("127.0.0.1", 0))
        bait.listen()
        bait.settimeout(0.2)
        address = f"http://127.0.0.1:{bait.getsockname()[1]}/talk.wav"
        parts = {"audio": (None, address)}
        assert_error(httpx.post(f"{server.url}/separate", files=parts, headers=CALLER), 400, "Addresses are not fetched")
        assert_error(httpx.post(f"{server.url}/separate", json={"audio": address}, headers=CALLER), 415, "Content-Type")
        with pytest.raises(TimeoutError):
            bait.accept()
    good = httpx.post(f"{server.url}/separate", files={"audio": ("a.wav", recording())}, headers=CALLER, timeout=10)
    assert good.status_code == 200


def test_malformed_forms_have_the_one_shape(server):
    kind = {"Content-Type": "multipart/form-data; boundary=x", **CALLER}
    cut = b'--x\r\nContent-Disposition: form-data; name="audio"; filename="a"\r\n'
    for body in (b"nonsense", b"--x\r\n\r\nno name\r\n--x--", cut):
        assert_error(httpx.post(f"{server.url}/separate", content=body, headers=kind), 400, "")
    kind["Content-Type"] = "multipart/form-data"
    assert_error(httpx.post(f"{server.url}/separate", content=b"", headers=kind), 400, "no boundary")


def test_a_crowd_of_half_open_connections_locks_nobody_out(server):
    target = urlsplit(server.url)
    crowd = []
    try:
        for _ in range(150):
            crowd.append(socket.create_connection((target.hostname, target.port), 5))
            crowd[-1].sendall(b"GET /livez HTTP/1.1\r\nHost: ")
        for _ in range(5):
            started = time.monotonic()
            assert httpx.get(f"{server.url}/livez").status_code == 200
            assert tag(server, "a").status_code == 200
            assert time.monotonic() - started < 3
        for connection in crowd:  # made room, or were too late
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1000).partition(b"\r\n")[0] in {b"", b"HTTP/1.1 408 Request Timeout"}
        assert metric(server, "convoy_connections_refused_total") >= 150
    finally:
        for connection in crowd:
            connection.close()


def test_keys_change_without_a_restart(server):
    file = server.log.parent / "keys"
    file.write_text("laboratory: another-0123456789\n")
    deadline = time.monotonic() + 5
    while tag(server, "a").status_code == 200 or tag(server, "a").status_code == 200:  # two workers
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert tag(server, "a", **{"X-API-Key": "another-0123456789"}).status_code == 200
