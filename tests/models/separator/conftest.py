from __future__ import annotations

import pytest

from models.separator import Separator
from tests.tiny import tiny_separator_bundle


@pytest.fixture(scope="session")
def separator(tmp_path_factory):
    return Separator.load(tiny_separator_bundle(tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="session")
def live_separator(tmp_path_factory):
    return Separator.load(tiny_separator_bundle(tmp_path_factory.mktemp("causal"), causal=True))
