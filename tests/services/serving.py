"""Start a real server for a test: `bentoml serve` in a process of its own, on a free port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

CHECKOUT = Path(__file__).resolve().parent.parent.parent
_START_SECONDS = 120


@dataclass
class Server:
    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def separate(self, recording: bytes, name: str = "talk.wav", **fields: str) -> httpx.Response:
        return httpx.post(f"{self.url}/separate", files={"audio": (name, recording)}, data=fields, timeout=30)

    def tag(self, *texts: str, **fields: str) -> httpx.Response:
        return httpx.post(f"{self.url}/tag", json={"texts": texts, **fields}, timeout=30)


@contextlib.contextmanager
def serving(target: str, folder: Path, environment: Mapping[str, str], cwd: Path = CHECKOUT) -> Iterator[Server]:
    """Serve `target` until the block ends; its log goes to a file in `folder`.

    The processes are ended by the signal a user's Ctrl-C sends, and the exit must be a clean one.
    """
    port, log = _free_port(), folder / "server.log"
    environment = {"CONVOY_JOBS": str(folder / "jobs"), **environment}  # never the user's own
    command = [sys.executable, "-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as file:
        # A session of its own: a signal to its group reaches the supervisor and its workers, and nobody else.
        process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **environment}, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    server = Server(f"http://127.0.0.1:{port}", log, process)
    try:
        _await_ready(server)
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise


def _await_ready(server: Server) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/readyz").is_success:
                return
        if server.process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start:\n{server.log.read_text(errors='replace')}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def assert_error(response: httpx.Response, status: int, said: str) -> None:
    """The answer is the one shape of an error."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    assert said in error["message"]


def patient(server: Server, recording: bytes) -> httpx.Response:
    """As clients should: come back when told to."""
    for _ in range(50):
        response = server.separate(recording)
        if response.status_code != 429:
            break
        time.sleep(0.2)
    return response


def assert_no_files(place: Path) -> None:
    """The server has tidied up, or does so soon."""
    deadline = time.monotonic() + 10
    while (files := [path for path in place.glob("*/*") if path.name != "lock"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not files
