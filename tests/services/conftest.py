"""Servers shared by the tests of this folder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

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
