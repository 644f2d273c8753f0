"""What was accepted is done, whatever is killed: real servers, in processes of their own, over fake separators."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import serving
from fake_service import GAINS
from recordings import read, recording, samples


def environment(folder: Path, **settings: str) -> dict[str, str]:
    ours = {"CONVOY_JOBS": str(folder / "jobs"), "CONVOY_TEMPORARY": str(folder), "PYTHONPATH": str(Path(__file__).parent)}
    return ours | settings


def patiently(call: Callable[[], httpx.Response]) -> httpx.Response:
    """On connections of their own, so that any worker may answer; a worker that is killed takes its connections along."""
    for _ in range(50):
        with contextlib.suppress(httpx.TransportError):
            return call()
        time.sleep(0.1)
    raise AssertionError("no worker answers")


def submit(server, content: bytes, model: str) -> str:
    address, files = f"{server.url}/separate/submit", {"audio": content}
    answer = patiently(lambda: httpx.post(address, files=files, data={"model": model}, timeout=30))
    assert answer.status_code == 202, answer.text
    return answer.json()["task_id"]


def ask(server, call: str, task_id: str, method: str = "GET") -> httpx.Response:
    address, query = f"{server.url}/separate/{call}", {"task_id": task_id}
    return patiently(lambda: httpx.request(method, address, params=query, timeout=30))


def until(server, task_id: str, *wanted: str, seconds: float = 40) -> dict:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (found := ask(server, "status", task_id).raise_for_status().json())["status"] in wanted:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{found} never became {wanted}\n{server.log.read_text()}")


def workers(server) -> set[int]:
    """Process ids of those that live."""
    found = set()
    for child in psutil.Process(server.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # gone, or a zombie
            if "_bentoml_impl.worker.service" in child.cmdline():
                found.add(child.pid)
    return found


def kill_all(server) -> None:
    """As a loss of power does."""
    doomed = [server.process, *psutil.Process(server.process.pid).children(recursive=True)]
    for process in doomed:
        process.kill()
    psutil.wait_procs(doomed[1:], 5)
    server.process.wait(5)


def assert_right(server, task_id: str, seconds: float) -> None:
    until(server, task_id, "completed")
    values, rate = read(ask(server, "get", task_id).raise_for_status().content)
    assert rate == 8000
    assert np.allclose(values, samples(seconds) @ GAINS.T, atol=1e-4)


@pytest.mark.timeout(300)
def test_jobs_outlive_a_killed_worker_and_a_killed_server_and_what_kills_is_given_up(tmp_path):
    settings = environment(tmp_path, CONVOY_WORKERS="2", CONVOY_JOB_ATTEMPTS="2", CONVOY_MAX_TASKS="12")
    lengths: dict[str, float] = {}

    def accept(server, seconds: float, model: str) -> str:
        task_id = submit(server, recording(seconds=seconds), model)
        lengths[task_id] = seconds
        return task_id

    with serving.serving("fake_service:Fake", tmp_path, settings) as server:
        before = workers(server)
        long = accept(server, 5.0, "slow")
        until(server, long, "in_progress")
        poison = submit(server, recording(), "DEATH")  # for the other worker, as the first is busy
        for number in range(5):
            accept(server, 0.25 + number / 8, "separator")
        unwanted = submit(server, recording(seconds=50), "slow")
        assert ask(server, "cancel", unwanted, "PUT").json()["status"] == "canceled"
        while before <= workers(server):
            time.sleep(0.05)
        kill_all(server)

    with serving.serving("fake_service:Fake", tmp_path, settings) as server:
        failed = until(server, poison, "failed")
        assert failed["error"]["code"] == "task_abandoned"
        assert "given up: 2 times the process that worked on it ended" in failed["error"]["message"]
        serving.assert_error(ask(server, "get", poison), 500, "given up")
        assert ask(server, "status", unwanted).json()["status"] == "canceled"
        for task_id, seconds in lengths.items():
            assert_right(server, task_id, seconds)
        running = submit(server, recording(seconds=50), "slow")
        until(server, running, "in_progress")
        started = time.monotonic()
        for _ in range(4):  # whoever is asked
            assert ask(server, "cancel", running, "PUT").json()["status"] == "canceled"
        while (tmp_path / "jobs" / "separate" / running / "upload").exists():
            assert time.monotonic() - started < 5
            time.sleep(0.02)
