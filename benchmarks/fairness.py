"""Who waits for whom: short calls while others send a volume, a recording or much text, against the same on an idle server.

    .venv-dev/bin/python benchmarks/fairness.py

A real server with the bundles in ``pretrained``. One client tags a short Chinese text every 50 ms (500 beside much text),
another asks ``/livez`` every 100 ms, each on its own connection and by the clock, so that a slow answer is seen by the next
call too. First nothing else happens; then a volume of noise is segmented that takes a minute or more, once as a call and once
as a task; then recordings of an hour are separated in the same ways; then a text of 20,000 Chinese characters is tagged again
and again, and calls of 300 texts. Idle and loaded stretches take turns, so that a busy machine is as busy for both. Asked: the
99th percentile of ``/tag`` under 3 times its idle value beside volumes and recordings, and 0.4 s beside much text; health
checks under 100 ms. Prints a table, then JSON; exits with 1 where that is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from memory import running
from overhead import JSON, SEGMENTER, VOICES, form, post
from tagger_speed import processor

TAG_SECONDS, HEALTH_SECONDS = 0.05, 0.1
TAG_SECONDS_BESIDE_TEXTS = 0.5  # calls by the clock have to be shorter than its beat, else they queue up behind each other
HEALTHY_SECONDS, TEXT_SECONDS = 0.1, 0.4  # asked; beside much text, whose batches take a tenth of a second on each of two threads
RATE, TASKS = 8000, 8
SHORT, SENTENCE = "我爱北京天安门。", "我爱北京天安门，天安门上太阳升。二十世纪的计算机科学家在上海生活。"
LONG, MANY = [(SENTENCE * 700)[:20_000]], [3 * SENTENCE] * 300
Times = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each loaded stretch (default: 60)")
    parser.add_argument("--side", type=int, default=320, help="voxels along each side of the volume (default: 320)")
    parser.add_argument("--minutes", type=float, default=55.0, help="of the recording (default: 55)")
    parser.add_argument("--cores", type=int, default=2, help="cores that server and clients may use (default: 2)")
    parser.add_argument("--only", choices=list(LOADS), action="append", help="only this load")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])  # the server inherits them
    loads = arguments.only or list(LOADS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"CONVOY_JOBS": str(folder / "jobs"), "CONVOY_TEMPORARY": name}
        make_volume(folder / "volume.nii", arguments.side)
        make_recording(folder / "recording.flac", arguments.minutes)
        with running("services.gateway:Gateway") as (url, _):
            host = urlsplit(url).netloc
            watch(host, 3.0)  # not counted: fills caches
            taken: dict[str, Times] = {"idle": {"tag": [], "health": []}}
            for load in loads:
                for work, seconds in watch(host, arguments.seconds / 2).items():
                    taken["idle"][work] += seconds
                with LOADS[load](host, folder):
                    time.sleep(1.0)
                    taken[load] = watch(host, arguments.seconds, TAG_SECONDS_BESIDE_TEXTS if load in TEXTS else TAG_SECONDS)
    sys.exit(report(arguments, taken))


def watch(host: str, seconds: float, pause: float = TAG_SECONDS) -> Times:
    """Seconds that each call took, from when it was due: a text every `pause` seconds, and health checks."""
    body = json.dumps({"texts": [SHORT]}).encode()
    taken: Times = {"tag": [], "health": []}

    def every(pause: float, work: str, call: Callable[[http.client.HTTPConnection], object]) -> None:
        connection = http.client.HTTPConnection(host, timeout=60)
        due, end = time.perf_counter(), time.perf_counter() + seconds
        while due < end:
            time.sleep(max(due - time.perf_counter(), 0.0))
            call(connection)
            taken[work].append(time.perf_counter() - due)
            due += pause

    works = [
        (pause, "tag", lambda connection: post(connection, "/tag", body, JSON)),
        (HEALTH_SECONDS, "health", healthy),
    ]
    threads = [threading.Thread(target=every, args=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def healthy(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/livez")
    response = connection.getresponse()
    response.read()
    if response.status != 200:
        raise RuntimeError(f"/livez: {response.status}")


# ---- loads ------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def calling(host: str, path: str, body: bytes, kind: str) -> Iterator[None]:
    """One call after the other for the block; the client then hangs up, which ends the work."""
    connection, done = http.client.HTTPConnection(host, timeout=600), threading.Event()

    def work() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):  # hung up
            while not done.is_set():
                post(connection, path, body, kind)

    worker = threading.Thread(target=work)
    worker.start()
    yield
    if not worker.is_alive():
        raise RuntimeError(f"POST {path} failed")
    done.set()
    connection.sock.shutdown(socket.SHUT_RDWR)
    worker.join()
    time.sleep(2.0)


@contextlib.contextmanager
def task(host: str, path: str, body: bytes, kind: str) -> Iterator[None]:
    """Some tasks, one after the other, until the end of the block; what is left is then cancelled."""
    route = path.partition("?")[0]

    def ask(method: str, address: str, content: bytes | None = None) -> dict[str, str]:
        with contextlib.closing(http.client.HTTPConnection(host, timeout=60)) as connection:
            connection.request(method, address, content, {"Content-Type": kind})
            return dict(json.load(connection.getresponse()))

    tasks = [ask("POST", path.replace("?", "/submit?"), body)["task_id"] for _ in range(TASKS)]
    yield
    states = [ask("PUT", f"{route}/cancel?task_id={each}")["status"] for each in tasks]
    if states[-1] != "canceled":
        sys.exit(f"the tasks of {route} were over too soon: {states}. Make the files larger.")
    time.sleep(2.0)


def segmenting(how: Callable[..., contextlib.AbstractContextManager[None]]) -> Callable[..., object]:
    return lambda host, folder: how(host, f"/segment?model={SEGMENTER}", *form("volume", folder / "volume.nii"))


def separating(how: Callable[..., contextlib.AbstractContextManager[None]]) -> Callable[..., object]:
    return lambda host, folder: how(host, f"/separate?model={VOICES}", *form("audio", folder / "recording.flac"))


def tagging(texts: list[str]) -> Callable[..., contextlib.AbstractContextManager[None]]:
    return lambda host, folder: calling(host, "/tag", json.dumps({"texts": texts}).encode(), JSON)


TEXTS = {"/tag, a long text": tagging(LONG), "/tag, many texts": tagging(MANY)}
LOADS = {
    "/segment": segmenting(calling),
    "/segment/submit": segmenting(task),
    "/separate": separating(calling),
    "/separate/submit": separating(task),
    **TEXTS,
}


def make_volume(path: Path, side: int) -> None:
    import nibabel

    noise = np.random.default_rng(0).integers(0, 1000, (side, side, side), dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), path)


def make_recording(path: Path, minutes: float) -> None:
    import soundfile

    second = np.random.default_rng(0).uniform(-0.3, 0.3, RATE).astype(np.float32)
    soundfile.write(path, np.tile(second, int(60 * minutes)), RATE)


# ---- figures ----------------------------------------------------------------------------------------------------------------


def percentile(values: list[float], part: float) -> float:
    return float(np.quantile(values, part))


def report(arguments: argparse.Namespace, taken: dict[str, Times]) -> bool:
    """Print the figures; whether something is slower than asked."""
    print(f"{arguments.cores} cores of {processor()}, nice {os.environ.get('CONVOY_NICE', 'as set')}\n")
    out = io.StringIO()
    print(f"{'milliseconds':<26}{'calls':>7}{'median':>9}{'95 %':>9}{'99 %':>9}{'longest':>9}{'99 % against idle':>20}", file=out)
    figures: dict[str, object] = {}
    missed = False
    for work, name in (("tag", "/tag"), ("health", "/livez")):
        idle = percentile(taken["idle"][work], 0.99)
        for load, times in taken.items():
            values = times[work]
            at = {part: percentile(values, part) for part in (0.95, 0.99)}
            ratio = at[0.99] / idle
            row = [statistics.median(values), at[0.95], at[0.99], max(values)]
            cells = "".join(f"{1e3 * value:>9.1f}" for value in row)
            print(f"{f'{name}, {load}':<26}{len(values):>7}{cells}{ratio:>19.2f}x", file=out)
            figures[f"{name}, {load}"] = dict(zip(("median", "p95", "p99", "max"), row, strict=True)) | {"ratio": ratio}
            asked = TEXT_SECONDS if load in TEXTS else 3 * idle
            missed |= at[0.99] >= (asked if work == "tag" else HEALTHY_SECONDS)
    print(out.getvalue())
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", "utf-8")
    return missed


if __name__ == "__main__":
    main()
