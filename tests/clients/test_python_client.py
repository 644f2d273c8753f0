"""The Python client: held to the description of the service, and used against real ones."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import inspect
import json
import re
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import soundfile

from services.gateway import Gateway
from services.openapi import document

CHECKOUT = Path(__file__).resolve().parent.parent.parent
FOLDER = CHECKOUT / "clients" / "python"
sys.path.insert(0, str(CHECKOUT / "tests" / "services"))

import serving  # noqa: E402


def load():
    spec = importlib.util.spec_from_file_location("convoy_client", FOLDER / "convoy_client.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["convoy_client"] = module
    spec.loader.exec_module(module)
    return module


client = load()
DESCRIPTION = document(Gateway)
SCHEMAS = DESCRIPTION["components"]["schemas"]


# ---- against the description ---------------------------------------------------------------------------------------------------


class Recorder(BaseHTTPRequestHandler):
    """Answers every call as the description's examples would, and keeps what was asked."""

    def answer(self):
        length = int(self.headers.get("content-length", 0))
        path, _, query = self.path.partition("?")
        self.server.asked.append((self.command.lower(), path, query, dict(self.headers), self.rfile.read(length)))
        status, kind, body, headers = self.server.script.pop(0) if self.server.script else good(path)
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *arguments):
        pass


def good(path):
    if path == "/tag":
        example = DESCRIPTION["paths"]["/tag"]["post"]["responses"]["200"]["content"]["application/json"]["examples"]["english"]
        return 200, "application/json", json.dumps(example["value"]).encode(), {}
    if path == "/models":
        return 200, "application/json", b'{"models": []}', {}
    if path.endswith(("/submit", "/status", "/cancel")):
        status = {"task_id": "abc", "status": "completed", "progress": 1.0, "created_at": "", "completed_at": ""}
        return 202 if path.endswith("/submit") else 200, "application/json", json.dumps(status).encode(), {}
    return 200, "audio/wav", b"RIFF", {}


def failed(status, **headers):
    error = {"error": {"code": "busy", "message": "too much", "request_id": "r"}}
    return status, "application/json", json.dumps(error).encode(), headers


@pytest.fixture
def recorder():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    server.asked, server.script = [], []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def convoy(recorder):
    with client.Convoy(f"http://127.0.0.1:{recorder.server_port}", key="k" * 20) as made:
        yield made


def test_every_route_field_and_parameter_that_it_uses_is_described(recorder, convoy, tmp_path):
    source = tmp_path / 'a "b".wav'
    source.write_bytes(b"RIFF")
    out = tmp_path / "out"
    sound = {"model": "m", "output": "files", "format": "flac"}
    scan = {"model": "m", "output": "labels", "format": "nii", "spacing": (3.0, 1.0, 1.0), "flips": "zy"}
    convoy.models()
    convoy.tag(["Ada"], model="m")
    convoy.separate(source, out, **sound)
    convoy.segment(source, out, **scan)
    for task in (convoy.submit_separate(source, **sound), convoy.submit_segment(source, **scan)):
        task.wait()
        task.fetch(out)
        task.cancel()
    assert len(recorder.asked) == 12
    for verb, path, query, headers, body in recorder.asked:
        operation = DESCRIPTION["paths"][path][verb]
        assert {pair.partition("=")[0] for pair in query.split("&") if pair} <= {
            parameter["name"] for parameter in operation.get("parameters", ())
        }
        assert headers["X-API-Key"] == "k" * 20
        check_body(operation, headers.get("Content-Type", ""), body)


def check_body(operation, kind, body):
    if not body:
        assert "requestBody" not in operation
    elif kind == "application/json":
        schema = operation["requestBody"]["content"][kind]["schema"]["$ref"].rsplit("/", 1)[1]
        assert set(json.loads(body)) <= set(SCHEMAS[schema]["properties"])
    else:
        schema = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
        names = {name.decode() for name in re.findall(rb'form-data; name="(\w+)"', body)}
        assert set(schema["required"]) <= names <= set(schema["properties"])
        assert b'filename="a %22b%22.wav"' in body


@pytest.mark.parametrize(("call", "path"), [("separate", "/separate"), ("segment", "/segment")])
def test_its_choices_are_those_of_the_description(call, path):
    form = DESCRIPTION["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    for method in (getattr(client.Convoy, call), getattr(client.Convoy, f"submit_{call}")):
        known = inspect.signature(method, eval_str=True).parameters
        assert set(form) - {"audio", "volume"} == set(known) - {"self", "recording", "volume", "target", "progress"}
        assert list(known["output"].annotation.__args__) == form["output"]["enum"]


def test_its_answers_are_those_of_the_description():
    assert {field.name for field in dataclasses.fields(client.Tagged)} == set(SCHEMAS["Tagged"]["properties"])
    assert {field.name for field in dataclasses.fields(client.Span)} == set(SCHEMAS["Span"]["properties"])
    assert {field.name for field in dataclasses.fields(client.TaskStatus)} <= set(SCHEMAS["TaskStatus"]["properties"])
    states = inspect.get_annotations(client.TaskStatus, eval_str=True)["status"].__args__
    assert list(states) == SCHEMAS["TaskStatus"]["properties"]["status"]["enum"]
    assert set(SCHEMAS["ErrorFields"]["properties"]) == {"code", "message", "request_id"}
    stream = DESCRIPTION["x-websockets"]["/separate/stream"]
    known = set(inspect.signature(client.Convoy.stream).parameters) - {"self"}
    assert {parameter["name"] for parameter in stream["parameters"]} == known


# ---- what it does by itself ---------------------------------------------------------------------------------------------------


@pytest.fixture
def slept(monkeypatch):
    waits = []
    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=waits.append, monotonic=iter(range(1000)).__next__))
    return waits


def test_a_busy_service_is_asked_again_when_it_says(recorder, convoy, slept, tmp_path):
    (tmp_path / "a.wav").write_bytes(bytes(1_000_000))
    recorder.script = [failed(429, **{"Retry-After": "7"}), failed(503, **{"Retry-After": "2"})]
    convoy.separate(tmp_path / "a.wav", tmp_path / "b.wav")
    assert slept == [7.0, 2.0]
    bodies = [body for *_, body in recorder.asked]
    assert len(bodies) == 3
    assert all(len(body) > 1_000_000 for body in bodies)  # the file is sent anew, whole


def test_patience_ends(recorder, slept):
    recorder.script = [failed(429, **{"Retry-After": "1"})] * 3
    convoy = client.Convoy(f"http://127.0.0.1:{recorder.server_port}", retries=2)
    with contextlib.closing(convoy), pytest.raises(client.ServiceError) as caught:
        convoy.models()
    error = caught.value
    assert (error.status, error.code, error.message, error.request_id, error.retry_after) == (429, "busy", "too much", "r", 1.0)
    assert slept == [1.0, 1.0]


@pytest.mark.parametrize("status", [400, 413, 500, 503])
def test_other_errors_and_those_without_a_time_are_told_at_once(recorder, convoy, slept, status):
    recorder.script = [failed(status)]
    with pytest.raises(client.ServiceError, match="busy: too much"):
        convoy.models()
    assert slept == []


def test_a_proxys_own_error_is_told_as_it_came(recorder, convoy):
    recorder.script = [(502, "text/html", b"<h1>Bad Gateway</h1>", {})]
    with pytest.raises(client.ServiceError, match="Bad Gateway") as caught:
        convoy.models()
    assert caught.value.status == 502


def test_an_answer_that_breaks_off_leaves_no_file(recorder, convoy, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    recorder.script = [(200, "audio/wav", b"half", {"Content-Length": "1000", "Connection": "close"})]
    recorder.RequestHandlerClass.close_connection = True
    with pytest.raises(httpx.TransportError):
        convoy.separate(tmp_path / "a.wav", tmp_path / "b.wav")
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_failed_or_cancelled_task_is_an_error(recorder, convoy, slept):
    common = {"task_id": "abc", "progress": 0.5, "created_at": "", "completed_at": None}
    bad = {"error": {"code": "audio_empty", "message": "no samples"}}
    for status in ({"status": "in_progress"}, {"status": "failed", **bad}, {"status": "canceled"}):
        recorder.script.append((200, "application/json", json.dumps({**common, **status}).encode(), {}))
    seen = []
    with pytest.raises(client.TaskError, match="audio_empty: no samples"):
        convoy.task("separate", "abc").wait(progress=lambda *about: seen.append(about))
    assert seen == [("work", 0.5)]
    assert slept == [1.0]
    with pytest.raises(client.TaskError, match="cancelled"):
        convoy.task("separate", "abc").wait()


def test_waiting_ends(recorder, convoy, slept):
    pending = {"task_id": "abc", "status": "pending", "progress": 0.0, "position": 3, "created_at": "", "completed_at": None}
    recorder.script = [(200, "application/json", json.dumps(pending).encode(), {})] * 9
    assert convoy.task("separate", "abc").status().position == 3
    with pytest.raises(TimeoutError, match="task abc is pending after 3 s"):
        convoy.task("separate", "abc").wait(seconds=3)


def test_it_is_one_file_that_needs_httpx_alone():
    about = tomllib.loads((FOLDER / "pyproject.toml").read_text("utf-8"))
    assert about["tool"]["setuptools"]["py-modules"] == ["convoy_client"]
    assert about["project"]["version"] == client.__version__
    assert [need.partition(">")[0] for need in about["project"]["dependencies"]] == ["httpx"]
    source = (FOLDER / "convoy_client.py").read_text("utf-8")
    imported = set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)) - {"__future__"}
    assert imported - set(sys.stdlib_module_names) == {"httpx"}


# ---- against a real service ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    environment = {"PYTHONPATH": str(CHECKOUT / "tests" / "services"), "CONVOY_API_KEYS": "tests: 0123456789abcdef0123"}
    environment["CONVOY_TEMPORARY"] = str(tmp_path_factory.mktemp("temporary"))
    started = serving.serving("fake_service:Fake", tmp_path_factory.mktemp("client-server"), environment)
    with started as running, client.Convoy(running.url, key="0123456789abcdef0123") as convoy:
        yield convoy


def test_texts(service):
    english, empty = service.tag(["Ada 在 London", " "])
    assert [(token.text, token.start, token.label) for token in english.tokens] == [
        ("Ada", 0, "3"),
        ("在", 4, "1"),
        ("London", 6, "6"),
    ]
    assert (empty.code, empty.tokens) == ("text_empty", [])
    assert {model["task"] for model in service.models()} >= {"tagger", "separator"}


def test_files_tasks_and_their_progress(service, tmp_path):
    samples = np.linspace(-0.5, 0.5, 8000, dtype=np.float32)
    soundfile.write(tmp_path / "talk.wav", samples, 8000, subtype="FLOAT")
    seen = []
    service.separate(tmp_path / "talk.wav", tmp_path / "voices.wav", progress=lambda *about: seen.append(about))
    assert {what for what, _ in seen} == {"upload", "download"}
    assert seen[-1] == ("download", 1.0)
    task = service.submit_separate(tmp_path / "talk.wav", model="separator")
    again = service.task("separate", task.id)
    again.wait(every=0.05, seconds=30)
    again.fetch(tmp_path / "again.wav")
    for name in ("voices.wav", "again.wav"):
        voices, rate = soundfile.read(tmp_path / name, dtype="float32")
        assert rate == 8000
        assert np.allclose(voices, np.outer(samples, [0.75, 0.25]), atol=1e-4)
    assert service.task("separate", task.id).cancel().status == "completed"


def test_errors(service, tmp_path):
    (tmp_path / "noise.wav").write_bytes(b"no sound at all")
    with pytest.raises(client.ServiceError) as caught:
        service.separate(tmp_path / "noise.wav", tmp_path / "voices.wav")
    assert (caught.value.status, caught.value.code) == (415, "audio_unsupported")
    assert caught.value.request_id
    with pytest.raises(client.ServiceError, match="task_unknown"):
        service.task("separate", "a").status()
    with client.Convoy(str(service._http.base_url), key="wrong" * 5) as stranger:
        with pytest.raises(client.ServiceError, match="key_unknown") as caught:
            stranger.models()
        with pytest.raises(client.ServiceError, match="key_unknown"), stranger.stream():
            pass
    assert caught.value.status == 401


def test_a_live_stream(service):
    samples = np.linspace(-0.5, 0.5, 4000, dtype="<f4")
    with service.stream(8000, "pcm_f32le") as live:
        assert (live.sources, live.delay_samples) == (["first", "second"], 4)
        live.send(samples[:1000].tobytes())
        live.send(samples[1000:].tobytes())
        live.end()
        voices = np.frombuffer(b"".join(live), "<f4").reshape(-1, 2)
    assert np.allclose(voices, np.outer(samples, [0.75, 0.25]), atol=1e-6)
    with service.stream() as live:
        live._socket.send_text("hello")
        with pytest.raises(client.ServiceError, match="stream_malformed"):
            list(live)
