"""What HTTP costs: the service and the predictors behind it on the same work, in turns, in one run.

    .venv-dev/bin/python benchmarks/overhead.py

A real server with the bundles in ``pretrained``, and the same predictors in a process that stays loaded; both use the same cores,
and the client too, whose part is counted as HTTP's. One short text; 1,000 sentences in one call, and as calls of 250 from four
clients at once; the sample recording, several times over; the sample volume; and a whole head, if `convoy fetch mni152` has
brought one. The two take turns, and who goes first changes.
A process is as fast as its memory happened to lie, by up to two per cent: for files of tens of milliseconds give ``--starts``.
Asked: at most 3 ms over the predictor for one text, at least 80 % of its throughput in bulk, below 5 % more time for files.
Prints a table, then JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from memory import running
from tagger_speed import made_sentences, processor
from worker import ROOT, Worker, answer

SAMPLES, BUNDLES = ROOT / "services" / "page" / "samples", ROOT / "pretrained"
SHORT = "Ada Lovelace lived in London."
CALLS = 100  # of one short text, in a turn; the turn counts as their median
BULK, CLIENTS = 1000, 4  # texts; clients that share them
VOICES, SCAN, SEGMENTER = "separator-2speakers", "hippocampus-mni152.nii.gz", "segmenter-hippocampus"
HEAD = next((ROOT / "data" / "mni152").glob("*.nii.gz"), None)
JSON = "application/json"
Work = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="turns of each on each work (default: 15)")
    parser.add_argument("--starts", type=int, default=1, help="how often both are started anew for these turns (default: 1)")
    parser.add_argument("--repeat", type=int, default=6, help="how often the recording of 10 s is repeated (default: 6)")
    parser.add_argument("--cores", type=int, default=2, help="cores that both may use (default: 2)")
    works = ["short", "bulk", "clients", "audio", "volume", "head"]
    parser.add_argument("--only", choices=works, action="append", help="only this work")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        predict(arguments.worker)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    cores = sorted(os.sched_getaffinity(0))[: arguments.cores]
    os.sched_setaffinity(0, cores)  # the server inherits them
    times: dict[str, dict[str, list[float]]] = {}
    memory = 0
    with tempfile.TemporaryDirectory() as name:
        make_recording(Path(name) / "recording.flac", arguments.repeat)
        for _ in range(arguments.starts):
            memory = max(memory, one_start(arguments, Path(name), cores, times))
    report(arguments, times, memory)


def one_start(arguments: argparse.Namespace, folder: Path, cores: list[int], times: dict[str, dict[str, list[float]]]) -> int:
    """Add the turns of a server and a predictor that are started for them; bytes that the server's largest process holds."""
    predictor = Worker([sys.executable, __file__, "--worker", str(folder)], cores)
    try:
        with running("services.gateway:Gateway") as (url, process):
            both = {work: (over_http, lambda work=work: predictor.turn(work)) for work, over_http in client(url, folder).items()}
            for work, pair in both.items():
                if work in (arguments.only or both):
                    kept = times.setdefault(work, {"http": [], "predictor": []})
                    for name, taken in take_turns(*pair, arguments.rounds).items():
                        kept[name] += taken
            return max(child.memory_info().rss for child in psutil.Process(process.pid).children(recursive=True))
    finally:
        predictor.close()


def take_turns(over_http: Work, alone: Work, rounds: int) -> dict[str, list[float]]:
    """Seconds of each turn of both."""
    works = {"http": over_http, "predictor": alone}
    for work in works.values():
        work()  # not counted: fills caches and pages
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name, work in list(works.items())[:: 1 if number % 2 else -1]:
            times[name].append(work())
    return times


def median_of(work: Work, calls: int = CALLS) -> float:
    return statistics.median(work() for _ in range(calls))


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bulk_texts() -> list[str]:
    return [" ".join(words) for words in made_sentences(BULK)]


def make_recording(path: Path, repeat: int) -> None:
    import numpy as np
    import soundfile

    samples, rate = soundfile.read(SAMPLES / "two-speakers.flac")
    soundfile.write(path, np.tile(samples, repeat), rate)


# ---- over HTTP ------------------------------------------------------------------------------------------------------------


def client(url: str, folder: Path) -> dict[str, Work]:
    """Each work as a client does it, on connections that stay open."""
    texts, host = bulk_texts(), urlsplit(url).netloc
    connections = [http.client.HTTPConnection(host, timeout=300) for _ in range(CLIENTS)]
    crowd = ThreadPoolExecutor(CLIENTS)
    shares = [texts[start::CLIENTS] for start in range(CLIENTS)]

    def tag(some: Sequence[str], connection: http.client.HTTPConnection = connections[0]) -> float:
        body = json.dumps({"texts": some}).encode()
        started = time.perf_counter()
        content = post(connection, "/tag", body, JSON)
        taken = time.perf_counter() - started
        if len(json.loads(content)["results"]) != len(some):
            sys.exit("texts without an answer")
        return taken

    def short() -> float:
        connections[0].close()
        return median_of(lambda: tag([SHORT]))

    def bulk() -> float:
        connections[0].close()
        return tag(texts)

    def file(path: str, field: str, name: Path) -> float:
        body, kind = form(field, name)
        connections[0].close()  # it may have waited for longer than the server does
        connections[0].connect()
        return timed(lambda: post(connections[0], path, body, kind))

    def shared() -> float:
        bodies = [json.dumps({"texts": share}).encode() for share in shares]
        for connection in connections:
            connection.close()
        return timed(lambda: list(crowd.map(lambda connection, body: post(connection, "/tag", body, JSON), connections, bodies)))

    return {
        "short": short,
        "bulk": bulk,
        "clients": shared,
        "audio": lambda: file("/separate", "audio", folder / "recording.flac"),
        "volume": lambda: file(f"/segment?model={SEGMENTER}", "volume", SAMPLES / SCAN),
        **({"head": lambda: file(f"/segment?model={SEGMENTER}", "volume", HEAD)} if HEAD else {}),
    }


def post(connection: http.client.HTTPConnection, path: str, body: bytes, kind: str) -> bytes:
    connection.request("POST", path, body, {"Content-Type": kind})
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        sys.exit(f"POST {path}: {response.status} {content[:500]!r}")
    return content


def form(field: str, path: Path) -> tuple[bytes, str]:
    """A multipart form that holds one file, and its media type."""
    head = f'--part\r\nContent-Disposition: form-data; name="{field}"; filename="{path.name}"\r\n\r\n'
    return head.encode() + path.read_bytes() + b"\r\n--part--\r\n", "multipart/form-data; boundary=part"


# ---- the predictors alone -------------------------------------------------------------------------------------------------


def predict(folder: Path) -> None:
    from models.segmenter import Segmenter
    from models.separator import Separator
    from models.tagger import Tagger

    tagger, separator = Tagger.load(BUNDLES / "tagger-en"), Separator.load(BUNDLES / VOICES)
    segmenter, texts = Segmenter.load(BUNDLES / SEGMENTER), bulk_texts()
    works: dict[str, Work] = {
        "short": lambda: median_of(lambda: timed(lambda: tagger.tag([SHORT]))),
        "bulk": lambda: timed(lambda: tagger.tag(texts)),
        "clients": lambda: timed(lambda: tagger.tag(texts)),
        "audio": lambda: timed(lambda: separator.separate_file(folder / "recording.flac", folder / "voices.wav")),
        "volume": lambda: timed(lambda: segmenter.segment_file(SAMPLES / SCAN, folder / "labels.nii.gz")),
        "head": lambda: timed(lambda: segmenter.segment_file(HEAD, folder / "labels.nii.gz")),
    }
    answer("ready")
    for line in sys.stdin:
        answer(works[line.strip()]())


def report(arguments: argparse.Namespace, times: dict[str, dict[str, list[float]]], memory: int) -> None:
    names = {
        "short": f"/tag, one short text, median of {CALLS}",
        "bulk": f"/tag, {BULK:,} sentences, one call",
        "clients": f"/tag, {BULK:,} sentences, {CLIENTS} clients",
        "audio": f"/separate, {10 * arguments.repeat} s of sound",
        "volume": f"/segment, {SCAN}",
        "head": "/segment, a whole head of 1 mm",
    }
    figures: dict[str, object] = {"processor": processor()}
    figures |= {name: getattr(arguments, name) for name in ("cores", "starts", "rounds")}
    print(f"{arguments.cores} cores of {figures['processor']}, {arguments.rounds} rounds, {arguments.starts} starts\n")
    print(f"{'milliseconds, medians':<42}{'HTTP':>10}{'predictor':>12}{'more':>10}{'speed':>9}")
    for work, taken in times.items():
        over, alone = (statistics.median(taken[name]) for name in ("http", "predictor"))
        pairs = list(zip(taken["http"], taken["predictor"], strict=True))
        more, speed = statistics.median(a - b for a, b in pairs), statistics.median(b / a for a, b in pairs)
        print(f"{names[work]:<42}{1e3 * over:>10.2f}{1e3 * alone:>12.2f}{1e3 * more:>10.2f}{speed:>8.0%}")
        figures[work] = {"http_seconds": over, "predictor_seconds": alone, "more_seconds": more, "speed": speed, "rounds": taken}
    figures["server_mib"] = round(memory / 2**20)
    text = json.dumps(figures, indent=2)
    print(f"\n{text}")
    if arguments.json:
        arguments.json.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
