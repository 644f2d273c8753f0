"""The gateway over real bundles, small ones: files and streams come apart, and bad recordings get their 4xx."""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile

import httpx
import numpy as np
import pytest
import serving
from httpx_ws import connect_ws
from recordings import not_a_number, read, recording, samples, wav_header

from models.separator import Separator


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, tiny_bundle, tiny_separator):
    folder = tmp_path_factory.mktemp("bundles")
    tiny_bundle(folder, "en", "tagger-en")
    tiny_separator(folder, causal=False, name="separator-2speakers")
    tiny_separator(folder, causal=True, name="separator-2speakers-causal")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, bundles):
    place = tmp_path_factory.mktemp("temporary")
    environment = {"CONVOY_BUNDLES": str(bundles), "CONVOY_TEMPORARY": str(place), "CONVOY_MAX_AUDIO_SECONDS": "120"}
    with serving.serving("services.gateway:Gateway", tmp_path_factory.mktemp("server"), environment) as running:
        yield running
    assert list(place.iterdir()) == []


def assert_still_answering(server) -> None:
    values, rate = read(server.separate(recording()).raise_for_status().content)
    assert (values.shape, rate) == ((8000, 2), 8000)
    assert np.abs(values.sum(1) - samples()[:, 0]).max() < 1e-3


@pytest.mark.parametrize(
    ("kind", "rate", "channels", "seconds"),
    [("WAV", 8000, 1, 2.0), ("FLAC", 44_100, 2, 1.0), ("OGG", 16_000, 1, 1.0), ("MP3", 22_050, 1, 1.0), ("WAV", 8000, 1, 0.001)],
)
@pytest.mark.parametrize("model", ["separator-2speakers", "separator-2speakers-causal"])
def test_files_of_every_kind_come_apart_and_add_up(server, kind, rate, channels, seconds, model):
    content = recording(kind, seconds, rate, channels)
    given, _ = read(content)
    values, got = read(server.separate(content, "misleading.txt", model=model).raise_for_status().content)
    assert (values.shape, got) == ((len(given), 2), rate)
    assert np.abs(values.sum(1) - given.mean(1)).max() < 1e-3


def test_a_zip_holds_a_file_per_speaker(server):
    content = recording()
    together, _ = read(server.separate(content).content)
    response = server.separate(content, output="files", format="flac").raise_for_status()
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.namelist() == ["talk-voices-1.flac", "talk-voices-2.flac"]
        voices = [read(archive.read(name))[0][:, 0] for name in archive.namelist()]
    assert np.abs(np.stack(voices, 1) - together).max() < 1e-3


BAD = {
    "not audio": (b"%PDF-1.7 " * 100, 415, ""),
    "a text": (b"http://127.0.0.1:9/talk.wav", 415, ""),
    "zero samples": (wav_header(promised=0), 400, "audio_empty"),
    "a header only": (wav_header(promised=16_000), 400, "audio_"),
    "half a header": (wav_header()[:20], 400, "audio_"),
    "truncated FLAC": (recording("FLAC", 5)[:-20_000], 400, "audio_truncated"),
    "200 channels": (wav_header(channels=200, promised=80_000) + bytes(80_000), 422, "audio_channels"),
    "1 Hz": (wav_header(1) + bytes(16_000), 422, "audio_rate"),
    "1 GHz": (wav_header(1_000_000_000) + bytes(16_000), 422, "audio_rate"),
    "a promise of 4 GB": (wav_header(promised=2**32 - 1 - 36) + bytes(16_000), 400, "audio_truncated"),
    "NaN": (not_a_number(), 422, "audio_samples"),
    "121 seconds": (recording("FLAC", 121, level=0), 413, ""),
}


@pytest.mark.parametrize("call", ["/separate", "/separate/submit"])
@pytest.mark.parametrize("name", BAD)
def test_bad_recordings_get_their_4xx_and_the_next_good_one_its_voices(server, name, call):
    content, status, code = BAD[name]
    response = httpx.post(server.url + call, files={"audio": ("talk.wav", content)}, timeout=30)
    if call == "/separate/submit":
        task_id = response.raise_for_status().json()["task_id"]
        response = await_result(server, task_id)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert error["code"].startswith(code)
    assert "convoy-" not in error["message"]  # no path of ours
    assert_still_answering(server)


def await_result(server, task_id: str) -> httpx.Response:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        response = httpx.get(f"{server.url}/separate/get", params={"task_id": task_id})
        if response.status_code != 409:
            return response
        time.sleep(0.05)
    raise AssertionError("the task never finished")


@pytest.mark.parametrize("rate", [8000, 16_000])
def test_a_live_stream_gives_what_the_whole_file_does(server, bundles, rate):
    given = samples(1.5, rate)[:, 0]
    data = given.astype("<f4").tobytes()
    received = b""
    with connect_ws(f"{server.url}/separate/stream?format=pcm_f32le&sample_rate={rate}") as ws:
        assert json.loads(ws.receive_text())["model"] == "separator-2speakers-causal"
        for at in range(0, len(data), 3001):
            ws.send_bytes(data[at : at + 3001])
        ws.send_text('{"type": "end"}')
        while not isinstance((message := ws.receive(timeout=10)).data, str):
            received += message.data
    assert json.loads(message.data) == {"type": "end", "samples": len(given)}
    voices = np.frombuffer(received, "<f4").reshape(-1, 2).T
    whole = Separator.load(bundles / "separator-2speakers-causal").separate(given, rate)
    assert np.abs(voices - whole).max() < 1e-3


def test_health_checks_and_tags_are_quick_during_separations(server):
    done, separated, long = threading.Event(), 0, recording("FLAC", 119, level=0.1)

    def separate() -> None:
        nonlocal separated
        while not done.is_set():
            server.separate(long).raise_for_status()
            separated += 1

    slow = threading.Thread(target=separate)
    seconds = []
    with httpx.Client(base_url=server.url) as client:
        client.get("/livez")
        slow.start()
        for _ in range(50):
            started = time.monotonic()
            assert client.get("/livez").status_code == 200
            seconds.append(time.monotonic() - started)
            assert client.post("/tag", json={"texts": ["Ada"]}).status_code == 200
        done.set()
    slow.join()
    assert separated
    assert sorted(seconds)[len(seconds) // 2] < 0.1


def test_models_are_listed(server):
    models = {model["name"]: model for model in httpx.get(f"{server.url}/models").json()["models"]}
    assert set(models) == {"tagger-en", "separator-2speakers", "separator-2speakers-causal"}
    assert models["separator-2speakers-causal"]["causal"] is True
