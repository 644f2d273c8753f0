"""Servers shared by the tests of this folder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the helpers beside the tests

serving = importlib.import_module("serving")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A real server over fake taggers, with limits small enough to reach."""
    environment = {"CONVOY_TIMEOUT_SECONDS": "20", "PYTHONPATH": str(Path(__file__).parent)}
    with serving.serving("fake_service:Fake", tmp_path_factory.mktemp("server"), environment) as running:
        yield running


@pytest.fixture(scope="session")
def tiny_bundle() -> Callable[[Path, str, str], Path]:
    """Small real bundles, exported when a test needs one: that takes torch."""
    return importlib.import_module("tests.tiny").tiny_tagger_bundle


@pytest.fixture(scope="session")
def tiny_separator() -> Callable[..., Path]:
    """As `tiny_bundle`, for separators: ``(folder, causal=…, name=…)``."""
    return importlib.import_module("tests.tiny").tiny_separator_bundle


@pytest.fixture(scope="session")
def tiny_segmenter() -> Callable[..., Path]:
    """As `tiny_bundle`, for segmenters: ``(folder, name=…)``."""
    return importlib.import_module("tests.tiny").tiny_segmenter_bundle


# Of the separators' server, small enough to reach.
LIMITS = {
    "CONVOY_MAX_AUDIO_BYTES": "2000000",
    "CONVOY_MAX_AUDIO_SECONDS": "60",
    "CONVOY_MAX_VOICES_BYTES": "20000000",
    "CONVOY_SEPARATIONS": "1",
    "CONVOY_QUEUE_SEPARATIONS": "1",
    "CONVOY_MAX_TASKS": "3",
    "CONVOY_TASK_SECONDS": "1.5",
    "CONVOY_MAX_STREAMS": "2",
    "CONVOY_MAX_CHUNK_BYTES": "100000",
    "CONVOY_STREAM_IDLE_SECONDS": "2",
    "CONVOY_TIMEOUT_SECONDS": "20",
}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps uploads and results."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="session")
def sound_server(tmp_path_factory: pytest.TempPathFactory, place: Path) -> Iterator[object]:
    """A real server over fake separators, with those limits; it leaves no file behind."""
    environment = LIMITS | {"CONVOY_TEMPORARY": str(place), "PYTHONPATH": str(Path(__file__).parent)}
    with serving.serving("fake_service:Fake", tmp_path_factory.mktemp("server"), environment) as running:
        yield running
    assert list(place.iterdir()) == []


@pytest.fixture
def watched_server(sound_server: object, place: Path) -> Iterator[object]:
    """That server; after the test the next good request is answered, and no file stays."""
    yield sound_server
    recordings, gains = importlib.import_module("recordings"), importlib.import_module("fake_service").GAINS
    answer = serving.patient(sound_server, recordings.recording()).raise_for_status()
    values, rate = recordings.read(answer.content)
    assert (values.shape, rate) == ((8000, 2), 8000)
    assert np.allclose(values, recordings.samples() @ gains.T, atol=1e-4)
    serving.assert_no_files(place)
