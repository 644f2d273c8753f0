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
_START_SECONDS = 60


@dataclass
class Server:
    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def tag(self, *texts: str, **fields: str) -> httpx.Response:
        return httpx.post(f"{self.url}/tag", json={"texts": texts, **fields}, timeout=30)


@contextlib.contextmanager
def serving(target: str, folder: Path, environment: Mapping[str, str], cwd: Path = CHECKOUT) -> Iterator[Server]:
    """Serve `target` until the block ends; its log goes to a file in `folder`.

    The processes are ended by the signal a user's Ctrl-C sends, and the exit must be a clean one.
    """
    port, log = _free_port(), folder / "server.log"
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
