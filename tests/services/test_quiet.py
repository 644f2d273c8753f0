"""Nothing leaves the machine: no connection and no name look-up, from import to the last request."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import serving

GUARD = Path(__file__).parent / "guard"


# The pause gives threads that send in the background their chance.
IMPORTS = """
import sys, time
import services.gateway
from models.runtime import _core
_core()
time.sleep(1)
assert "torch" not in sys.modules
"""


@pytest.fixture
def calls(tmp_path):
    """Where the guard notes attempts to reach another machine."""
    file = tmp_path / "calls.txt"
    file.touch()
    return file


def environment(calls: Path) -> dict[str, str]:
    path = os.pathsep.join([str(GUARD), str(Path(__file__).parent)])
    # As on a user's machine: no switch set from outside, a home without consent files.
    return {"PYTHONPATH": path, "CONVOY_TEST_CALLS": str(calls), "HOME": str(calls.parent), "BENTOML_DO_NOT_TRACK": ""}


def run(code: str, calls: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=serving.CHECKOUT,
        env={**os.environ, **environment(calls)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_guard_sees_an_attempt(calls):
    run("import socket\ntry: socket.create_connection(('192.0.2.1', 9), 0.01)\nexcept OSError: pass", calls)
    assert "connect ('192.0.2.1', 9)" in calls.read_text()


def test_importing_the_services_and_the_runtime_calls_nobody_and_needs_no_torch(calls):
    result = run(IMPORTS, calls)
    assert result.returncode == 0, result.stderr
    assert calls.read_text() == ""


def test_serving_calls_nobody(calls, tmp_path):
    with serving.serving("fake_service:Fake", tmp_path, environment(calls)) as server:
        server.tag("Ada Lovelace").raise_for_status()
    assert calls.read_text() == ""
