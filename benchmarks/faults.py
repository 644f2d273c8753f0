"""What is promised to whom, and what is lost, when something breaks: real servers with the published bundles, really broken.

    .venv-dev/bin/python benchmarks/faults.py

Each fault starts a server with a folder of jobs of its own, breaks something, and starts it again where it died. Every answer is
compared with that of a server that nothing happened to. Prints a table: the fault, what was promised, what was lost, and how long
it took; exits with 1 where something that was accepted is lost. A full disk is a small file system in memory where we may mount
one (root), else a limit on the size of files. A clock that jumps is Python's; that of the machine is left alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import soundfile

ROOT = Path(__file__).resolve().parent.parent
BUNDLES, RATE, MODEL = ROOT / "pretrained", 8000, "separator-2speakers"
SHORT, LONG = 20.0, 1200.0  # seconds of sound: done at once, and worked on for a while
CLOCK = """
import os, pathlib, time
_true, _file = time.time, pathlib.Path(os.environ["FAULTS_CLOCK"])
def _jumped():
    try:
        return _true() + float(_file.read_text())
    except (OSError, ValueError):
        return _true()
time.time = _jumped
"""


class Server:
    """``bentoml serve`` over a folder of its own, which outlives it."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder, self.log = folder, folder / "server.log"
        ours = {"CONVOY_JOBS": str(folder / "jobs"), "CONVOY_TEMPORARY": str(folder), "CONVOY_TASK_SECONDS": "600"}
        self.settings: dict[str, str] = {**ours, **settings}
        self.client = httpx.Client(timeout=120)

    def start(self, before: Callable[[], None] | None = None, until: str = "") -> Server:
        """Until it is ready, or has said `until` in its log from now on."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "bentoml", "serve", "services.gateway:Gateway", "--host", "127.0.0.1"]
        said = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(port)],
                cwd=ROOT,
                env={**os.environ, **self.settings},
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=before,
            )
        while not self.ready():
            words = self.log.read_bytes()[said:].decode(errors="replace")
            if self.process.poll() is not None:
                raise RuntimeError(words[-2000:])
            if until and until in words:
                break
            time.sleep(0.1)
        return self

    def ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.client.get(f"{self.url}/readyz", timeout=2).is_success  # a worker that starts leaves us hanging
        return False

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]

    def workers(self) -> list[psutil.Process]:
        return [child for child in self.processes()[1:] if "_bentoml_impl.worker.service" in child.cmdline()]

    def kill(self) -> None:
        """As a loss of power does."""
        doomed = self.processes()
        for process in doomed:
            process.kill()
        self.process.wait()
        psutil.wait_procs(doomed[1:], 10)

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Seconds that it took."""
        started = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(60)
        return time.monotonic() - started

    def submit(self, content: bytes) -> httpx.Response:
        files = {"audio": ("a.flac", content)}
        return httpx.post(f"{self.url}/separate/submit", files=files, data={"model": MODEL}, timeout=120)

    def separate(self, content: bytes, seconds: float = 120) -> httpx.Response:
        files = {"audio": ("a.flac", content)}
        return httpx.post(f"{self.url}/separate", files=files, data={"model": MODEL}, timeout=seconds)

    def task(self, call: str, task_id: str, method: str = "GET") -> httpx.Response:
        for _ in range(100):
            with contextlib.suppress(httpx.TransportError):
                return httpx.request(method, f"{self.url}/separate/{call}", params={"task_id": task_id}, timeout=120)
            time.sleep(0.2)
        raise RuntimeError("no answer")

    def ended(self, task_id: str, seconds: float = 200) -> dict[str, object]:
        """A task's status once it is over, or at the end of our patience."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = self.task("status", task_id)
            found = dict(answer.json()) if answer.is_success else {"status": "unknown"}
            if found["status"] not in ("pending", "in_progress"):
                break
            time.sleep(0.3)
        return found


def sound(seconds: float, seed: int) -> bytes:
    second = np.random.default_rng(seed).uniform(-0.3, 0.3, RATE).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, np.tile(second, int(seconds)), RATE, format="FLAC")
    return file.getvalue()


class Truth:
    """What an undisturbed server answers to each recording."""

    def __init__(self, folder: Path) -> None:
        self.sounds = {number: sound(SHORT + number, number) for number in range(10)}
        server = Server(folder).start()
        self.answers = {number: voices(server.separate(content)) for number, content in self.sounds.items()}
        self.long = sound(LONG, 99)
        server.stop()

    def right(self, number: int, answer: httpx.Response) -> bool:
        return answer.is_success and np.allclose(voices(answer), self.answers[number], atol=2e-3)

    def judge(self, server: Server, accepted: Mapping[str, int]) -> Counter[str]:
        """What became of tasks, by id, that were given these recordings."""
        became: Counter[str] = Counter()
        for task_id, number in accepted.items():
            status = str(server.ended(task_id)["status"])
            right = status == "completed" and self.right(number, server.task("get", task_id))
            became["done" if right else "told to have failed" if status == "failed" else "LOST"] += 1
        return became


def voices(answer: httpx.Response) -> np.ndarray:
    return soundfile.read(io.BytesIO(answer.raise_for_status().content), dtype="float32")[0]


def accept_all(server: Server, truth: Truth) -> dict[str, int]:
    """Ten tasks behind a long one."""
    server.submit(truth.long).raise_for_status()
    return {server.submit(content).raise_for_status().json()["task_id"]: number for number, content in truth.sounds.items()}


def told(became: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(became.items()))


# ---- faults: each returns what was promised and what became of it -----------------------------------------------------------

Told = tuple[str, str]


def server_killed(folder: Path, truth: Truth) -> Told:
    server = Server(folder, CONVOY_MAX_TASKS="20").start()
    accepted = accept_all(server, truth)
    server.kill()
    became = truth.judge(server.start(), accepted)
    server.stop()
    return "ten accepted tasks are done after the restart", told(became)


def worker_killed(folder: Path, truth: Truth) -> Told:
    server = Server(folder, CONVOY_WORKERS="2", CONVOY_MAX_TASKS="20").start()
    accepted = accept_all(server, truth)
    calls: Counter[str] = Counter()

    def call(number: int) -> None:
        try:
            answer = server.separate(truth.sounds[number])
            calls["answered" if truth.right(number, answer) else f"status {answer.status_code}"] += 1
        except httpx.TransportError:
            calls["cut off"] += 1

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    server.workers()[0].kill()
    for thread in threads:
        thread.join()
    became = truth.judge(server, accepted)
    server.stop()
    return "ten accepted tasks; calls of the dead worker alone are cut off", f"{told(became)}; calls: {told(calls)}"


def stopped_under_load(folder: Path, truth: Truth) -> Told:
    server = Server(folder, CONVOY_MAX_TASKS="20").start()
    accepted, calls, ending = accept_all(server, truth), Counter[str](), threading.Event()
    cut: list[str] = []

    def call(number: int) -> None:
        with httpx.Client(timeout=60) as client:
            while not ending.is_set():
                name = uuid.uuid4().hex
                try:
                    body = {"texts": [f"Ada {number} lived in London."]}
                    answer = client.post(f"{server.url}/tag", json=body, headers={"X-Request-Id": name})
                    calls["answered" if answer.is_success else f"status {answer.status_code}"] += 1
                except httpx.TransportError:
                    cut.append(name)
                    return

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(2.0)
    seconds = server.stop()
    ending.set()
    for thread in threads:
        thread.join()
    became = truth.judge(server.start(), accepted)
    server.stop()
    return (
        "accepted calls are answered, accepted tasks done later",
        f"{told(became)}; /tag: {told(calls)}; gone in {seconds:.1f} s",
    )


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[], None] | None]:
    """`folder` on a file system of that size, or what limits the files of a process to it."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield None if mounted else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 4, size // 4))
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def disk_full(folder: Path, truth: Truth) -> Told:
    size = 6 * len(truth.sounds[0])
    with small_disk(folder / "jobs", size) as limit:
        server = Server(folder).start(limit)
        filler = folder / "jobs" / "filler"
        if limit is None:
            free = shutil.disk_usage(folder / "jobs").free
            filler.write_bytes(bytes(free - len(truth.sounds[0]) // 2))
        refused = server.submit(truth.sounds[0] if limit is None else truth.long)
        left = len(list((folder / "jobs" / "separate").glob("*"))) if (folder / "jobs" / "separate").exists() else 0
        filler.unlink(missing_ok=True)
        big = server.submit(truth.sounds[9])  # its upload has room, its voices have not
        failed = server.ended(big.json()["task_id"]) if big.status_code == 202 else big.json()
        small = sound(2, 1)
        again = server.submit(small)
        became = server.ended(again.json()["task_id"])["status"] if again.status_code == 202 else again.text
        server.stop()
    reason = str(failed.get("error", {}).get("message", failed["status"]))[:60]
    outcome = (
        f"submitting: {refused.status_code}, {left} half accepted; working: {failed.get('status')} ({reason}); then: {became}"
    )
    lost = " LOST" if left or refused.status_code not in (503, 507) or failed.get("status") != "failed" else ""
    return "503 and nothing half accepted; a task without room fails and says so", outcome + lost


def bundle_damaged(folder: Path, truth: Truth) -> Told:
    bundles = folder / "bundles"
    shutil.copytree(BUNDLES, bundles)
    server = Server(folder, CONVOY_BUNDLES=str(bundles), CONVOY_MAX_TASKS="20").start()
    accepted = accept_all(server, truth)
    network = next((bundles / MODEL).glob("*.onnx"))
    good = network.read_bytes()
    with network.open("r+b") as file:  # in place, under the running server
        file.seek(len(good) // 2)
        file.write(bytes(100))
    still = truth.right(0, server.separate(truth.sounds[0]))
    server.kill()
    server.start(until=network.name)
    refused = "LOST: it started all the same" if server.ready() else "the start names the file"
    server.kill()
    network.write_bytes(good)
    became = truth.judge(server.start(), accepted)
    server.stop()
    return (
        "what is loaded answers on; no start with it; tasks wait",
        f"answers {'right' if still else 'LOST'}; {refused}; {told(became)}",
    )


def clients_gone(folder: Path, truth: Truth) -> Told:
    server = Server(folder, CONVOY_SEPARATIONS="1", CONVOY_QUEUE_SEPARATIONS="1").start()
    address = urlsplit(server.url)
    for path in ("/separate", "/separate/submit"):
        for _ in range(20):  # in the middle of sending
            with socket.create_connection((address.hostname, address.port), 10) as connection:
                head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: audio/flac\r\nContent-Length: 9999999\r\n\r\n"
                connection.sendall(head.encode() + bytes(200_000))
    for _ in range(3):  # in the middle of the work
        with contextlib.suppress(httpx.TransportError):
            server.separate(truth.long, 1.0)
    started = time.monotonic()
    while not truth.right(0, answer := server.separate(truth.sounds[0])) and time.monotonic() - started < 60:
        time.sleep(0.2 if answer.status_code == 429 else 60)
    seconds = time.monotonic() - started
    time.sleep(1.0)
    files = [path for path in folder.glob("*/*") if path.is_dir() and path.parent.name.startswith("convoy-")]
    tasks = list((folder / "jobs" / "separate").glob("*"))
    server.stop()
    lost = "" if not files and not tasks and seconds < 20 else " LOST"
    return (
        "their work ends, their files go",
        f"{len(files)} files, {len(tasks)} tasks left; next call done in {seconds:.1f} s{lost}",
    )


def slow_clients(folder: Path, truth: Truth) -> Told:
    server = Server(folder, CONVOY_TIMEOUT_SECONDS="3", CONVOY_MAX_REQUESTS="150").start()
    address = urlsplit(server.url)
    head = b"POST /tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    half, bodies = ([socket.create_connection((address.hostname, address.port), 10) for _ in range(100)] for _ in range(2))
    for connection in half:
        connection.sendall(head[:20])
    for connection in bodies:
        connection.sendall(head)
    took, answers = [], Counter[str]()
    for _ in range(40):
        started = time.monotonic()
        for connection in half + bodies:
            with contextlib.suppress(OSError):
                connection.sendall(b" ")
        answers[str(server.client.post(f"{server.url}/tag", json={"texts": ["Ada"]}).status_code)] += 1
        took.append(time.monotonic() - started)
        time.sleep(0.1)
    cut = sum(b"408" in _received(connection) for connection in bodies)
    for connection in half + bodies:
        connection.close()
    server.stop()
    lost = "" if set(answers) == {"200"} and cut == len(bodies) else " LOST"
    outcome = f"40 of 40 others answered, slowest {1e3 * max(took):.0f} ms; {cut} of {len(bodies)} slow bodies cut off with 408"
    return "others are answered; slow bodies are cut off", (outcome if not lost else f"{dict(answers)}; {outcome}{lost}")


def _received(connection: socket.socket) -> bytes:
    connection.settimeout(5)
    with contextlib.suppress(OSError):
        return connection.recv(100)
    return b""


def clock_jumps(folder: Path, truth: Truth) -> Told:
    (folder / "path").mkdir()
    (folder / "path" / "sitecustomize.py").write_text(CLOCK)
    clock = folder / "clock"
    server = Server(folder, PYTHONPATH=str(folder / "path"), FAULTS_CLOCK=str(clock), CONVOY_MAX_TASKS="20").start()
    accepted = accept_all(server, truth)
    first = next(iter(accepted))
    for jump in (86_400, -86_400, 0):
        clock.write_text(str(jump))
        server.ended(first)
        time.sleep(8.0)
    became = truth.judge(server, accepted)
    server.stop()
    return "a day forward, two back: tasks are done and results kept", told(became)


FAULTS = {
    "worker killed at work": worker_killed,
    "server killed, ten tasks accepted": server_killed,
    "SIGTERM under load": stopped_under_load,
    "disk full": disk_full,
    "bundle's file damaged": bundle_damaged,
    "clients hang up": clients_gone,
    "slow clients": slow_clients,
    "clock jumps": clock_jumps,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=list(FAULTS), action="append", help="only this fault")
    parser.add_argument("--keep", action="store_true", help="keep the folders and logs")
    arguments = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="faults-"))
    (base / "truth").mkdir()
    truth, lost = Truth(base / "truth"), False
    print("| fault | promised | what became of it | seconds |\n|---|---|---|---|", flush=True)
    for name in arguments.only or FAULTS:
        folder = Path(tempfile.mkdtemp(dir=base))
        started = time.monotonic()
        promised, became = FAULTS[name](folder, truth)
        print(f"| {name} | {promised} | {became} | {time.monotonic() - started:.0f} |", flush=True)
        lost |= "LOST" in became
    if not arguments.keep:
        shutil.rmtree(base, ignore_errors=True)
    sys.exit(lost)


if __name__ == "__main__":
    main()
