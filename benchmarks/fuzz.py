"""Generated requests against a real server: no 5xx, no end of a process, no growth of memory.

    python benchmarks/fuzz.py                      40,000 requests and 600 damaged bundles, about 20 minutes on two cores
    python benchmarks/fuzz.py --requests 2000 --seed 7
    python benchmarks/fuzz.py --only 1234          one of them again, with what it sent and got

It starts a gateway over the published bundles and sends it: JSON, real recordings and volumes, forms, HTTP and WebSocket
messages, all of them damaged by `mutations.py`; calls of tasks; other methods and paths; and what schemathesis makes of
``/docs.json``, with all its checks. Every request follows from the seed and its number. 503 and 504, which say that the service
is in trouble and may recover, are counted by code; every other 5xx, and every request without an answer, is a fault, and kept in
``runs/fuzz``. Memory (RSS of all processes of the server), threads and open files are read as it goes. After each quarter nothing
is sent until all that was begun has ended: what is held then is held for good, and of 30,000 requests or more may not become more
in the second half (in the first one networks for odd shapes are compiled, and caches filled). Damaged bundles are loaded in a
process of their own (`fuzz_bundles.py`), where they may raise a BundleError or work, and nothing else.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "services")]

import fuzz_bundles  # noqa: E402
import fuzz_requests  # noqa: E402
import psutil  # noqa: E402
import serving  # noqa: E402

from services.memory import GIVE_BACK_SECONDS  # noqa: E402

CLIENTS, QUARTERS = 4, 4
GROWTH = 0.01  # of what is held at half; the pages of allocators and caches come and go by that much
ENOUGH = 30_000  # requests, of which half fill what is made when it is first needed
LIMITS = {  # small enough that a header which promises much costs little
    "CONVOY_MAX_AUDIO_SECONDS": "60",
    "CONVOY_MAX_VOXELS": "2000000",
    "CONVOY_TASK_SECONDS": "20",
    "CONVOY_MAX_TASKS": "200",
    "CONVOY_STREAM_IDLE_SECONDS": "5",
    "CONVOY_TIMEOUT_SECONDS": "30",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--bundles", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0, help="no request begins after that")
    parser.add_argument("--only", type=int, help="the number of one request")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "fuzz")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    faults: list[str] = []
    if given.requests or given.only is not None:
        with tempfile.TemporaryDirectory() as scratch:
            places = {"CONVOY_TEMPORARY": scratch, "CONVOY_JOBS": f"{scratch}/jobs"}
            environment = {**places, "CONVOY_BUNDLES": "", "PYTHONPATH": "", **LIMITS}
            with serving.serving("services.gateway:Gateway", given.out, environment, cwd=ROOT) as server:
                faults += Fuzz(server, given).run()
            faults += [f"left behind: {path}" for path in Path(scratch).glob("convoy-*")]
    if given.bundles and given.only is None:
        faults += fuzz_bundles.run(given.bundles, given.seed, given.out)
    print("\n".join(["", *(f"FAULT {fault}" for fault in faults), f"{len(faults)} faults"]))
    sys.exit(bool(faults))


class Fuzz:
    """One run against one server."""

    def __init__(self, server: serving.Server, given: argparse.Namespace) -> None:
        self.server, self.given = server, given
        self.process = psutil.Process(server.process.pid)
        self.requests = fuzz_requests.Requests(server.url, given.seed)
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.troubles: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self.held: list[float] = []  # MiB, whenever nothing was in flight
        self.done = 0
        self._lock = threading.Lock()
        self._deadline = time.monotonic() + given.seconds

    def run(self) -> list[str]:
        if self.given.only is not None:
            print(self.requests.send(self.given.only, verbose=True))
            return []
        before = self._processes()
        started = time.monotonic()
        parts = QUARTERS if self.given.requests >= ENOUGH else 1
        for part in range(parts):
            first, after = (self.given.requests * number // parts for number in (part, part + 1))
            with concurrent.futures.ThreadPoolExecutor(CLIENTS) as threads:
                list(threads.map(self._one, range(first, after)))
            if part == parts - 1:
                self._schemathesis()
            self._settle()
        if self._processes() != before:
            self.faults.append(f"processes ended: {before - self._processes()}")
        self._report(time.monotonic() - started)
        return self.faults

    def _processes(self) -> set[int]:
        """Those that began with the server; one that died was replaced by another."""
        return {process.pid for process in (self.process, *self.process.children(recursive=True))}

    def _one(self, number: int) -> None:
        if time.monotonic() > self._deadline:
            return
        sent = self.requests.send(number)
        with self._lock:
            self.done += 1
            self.counts[sent.route, sent.status] += 1
            if sent.fault:
                self.faults.append(f"request {number}: {sent.route} {sent.status}: {sent.said[:300]}")
                print("FAULT", self.faults[-1], flush=True)
                (self.given.out / f"{self.given.seed}-{number}.bin").write_bytes(sent.body)
            elif sent.status.startswith("5"):
                self.troubles[f"{sent.route} {sent.status} {sent.code}"] += 1
            if self.done % max(self.given.requests // 40, 100) == 0:
                self._look()

    def _look(self) -> float:
        megabytes, threads, files = 0.0, 0, 0
        for process in (self.process, *self.process.children(recursive=True)):
            megabytes += process.memory_info().rss / 2**20
            threads += process.num_threads()
            files += process.num_fds()
        held = f"{megabytes:7.0f} MiB  {threads} threads  {files} files"
        print(f"{self.done:6} requests  {held}  {len(self.faults)} faults", flush=True)
        return megabytes

    def _schemathesis(self) -> None:
        """A twentieth as many as ours at least, with every check that it has."""
        here, report = ROOT / "tests" / "services", self.given.out / "schemathesis.har"
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(here / "schemathesis.toml")),
            *("run", f"{self.server.url}/docs.json", "--checks", "all", "--continue-on-failure", "--seed", str(self.given.seed)),
            *("-n", str(max(self.given.requests // 100, 5)), "--report", "har", "--report-har-path", str(report)),
        ]
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(here / "schemathesis_hooks.py"), "PYTHONPATH": ""}
        ran = subprocess.run(command, cwd=self.given.out, env=environment, capture_output=True, text=True, timeout=1800)
        (self.given.out / "schemathesis.txt").write_text(ran.stdout + ran.stderr, "utf-8")
        found = re.search(r"(\d+) generated", ran.stdout)
        print(f"schemathesis: {found[0] if found else ran.stdout[-500:]}, {'no' if ran.returncode == 0 else 'some'} violations")
        if ran.returncode:
            self.faults.append(f"schemathesis: see {self.given.out / 'schemathesis.txt'}")
        for entry in json.loads(report.read_text("utf-8"))["log"]["entries"]:
            path = entry["request"]["url"].removeprefix(self.server.url).split("?")[0]
            self.counts[f"schemathesis {path}"[:60], str(entry["response"]["status"])] += 1
            self.done += 1

    def _settle(self) -> None:
        """Everything has been answered: what is still held after the last tasks is held for good."""
        time.sleep(float(LIMITS["CONVOY_TASK_SECONDS"]) + GIVE_BACK_SECONDS + 5)
        print("settled", end=" ")
        self.held.append(self._look())
        if not serving.httpx.get(f"{self.server.url}/readyz", timeout=10).is_success:
            self.faults.append(f"not ready after {self.done} requests")

    def _report(self, seconds: float) -> None:
        by_route: dict[str, dict[str, int]] = collections.defaultdict(dict)
        for (route, status), count in self.counts.items():
            by_route[route][status] = count
        for route in sorted(by_route):
            print(f"{route:32}", "  ".join(f"{status}: {count}" for status, count in sorted(by_route[route].items())))
        print("503 and 504 by code:", dict(self.troubles) or "none")
        print(f"{self.done} requests in {seconds:.0f} s")
        held = ", ".join(f"{megabytes:.0f}" for megabytes in self.held)
        print(f"RSS when nothing was in flight: {held} MiB")
        if len(self.held) < QUARTERS or time.monotonic() > self._deadline:
            print("whether memory grows is not judged: too few requests")
        elif self.held[-1] > self.held[QUARTERS // 2 - 1] * (1 + GROWTH):
            self.faults.append(f"memory grows: {held} MiB after each quarter")


if __name__ == "__main__":
    main()
