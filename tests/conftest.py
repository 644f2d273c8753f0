"""Set up before any test: nothing leaves the machine, and nothing touches the user's own folders."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import hypothesis
import pytest

from tests.object_store import store, store_port  # noqa: F401  fixtures

_scratch = tempfile.TemporaryDirectory(prefix="convoy-tests-", ignore_cleanup_errors=True)
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
os.environ["BENTOML_HOME"] = str(Path(_scratch.name) / "bentoml")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch on tensors as small as these only loses by more threads
os.environ["CONVOY_PRECISION"] = "f32"  # the same digits on every processor
os.environ["CONVOY_CACHE"] = str(Path(_scratch.name) / "cache")

# A loaded machine is slow, not wrong: no deadline per example. Derandomised, so that a run can be repeated.
hypothesis.settings.register_profile("convoy", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("convoy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out tests marked `gpu` where there is no CUDA device; torch is imported only if one is marked."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
