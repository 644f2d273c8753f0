"""Mixed load at the limit, with every answer checked against its request; then more than it can take, and how soon it recovers.

    python benchmarks/load.py                  30 minutes
    python benchmarks/load.py --minutes 2

It starts a gateway over the published bundles and keeps clients busy with short and long texts in English and Chinese,
recordings, volumes and tasks, one call after the other each, so that every core is at work all the time. Then many more clients
come than the service grants a place: it has to say 429 with Retry-After, nothing else, and answer a short text within a second
after they have gone. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "services")]
os.environ["CONVOY_PRECISION"] = "f32"  # the same digits here and there

import httpx  # noqa: E402
import load_calls  # noqa: E402
import numpy as np  # noqa: E402
import psutil  # noqa: E402
import serving  # noqa: E402

CLIENTS = {"tag": 6, "tag_long": 2, "separate": 3, "segment": 2, "task": 3}
CROWD = {"/tag": 400, "/separate": 60, "/segment": 60}
CROWD_SECONDS = 15.0
RECOVERY_SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "load")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    known = load_calls.expected()
    with tempfile.TemporaryDirectory() as scratch:
        places = {"CONVOY_TEMPORARY": scratch, "CONVOY_JOBS": f"{scratch}/jobs", "CONVOY_BUNDLES": "", "PYTHONPATH": ""}
        # Tasks make room as soon as they are fetched, or the line of finished ones would be the limit.
        limits = {"CONVOY_TASK_SECONDS": "60", "CONVOY_MAX_TASKS": "200", "CONVOY_LOG": "json"}
        with serving.serving("services.gateway:Gateway", given.out, places | limits, cwd=ROOT) as server:
            found = asyncio.run(run(server, known, given.minutes))
    (given.out / "load.json").write_text(json.dumps(found, indent=1), "utf-8")
    print("\n".join(found["faults"]) or "no faults")
    sys.exit(bool(found["faults"]))


async def run(server: serving.Server, known: load_calls.Expected, minutes: float) -> dict[str, object]:
    """Both phases; figures and faults."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=server.url, timeout=660.0, limits=limits) as http:
        calls = load_calls.Calls(http, known)
        rss = [_rss(server)]
        clients = [
            asyncio.create_task(calls.repeat(getattr(calls, name), 1000 * kind + number))
            for kind, (name, count) in enumerate(CLIENTS.items())
            for number in range(count)
        ]
        began = time.monotonic()
        while time.monotonic() - began < 60 * minutes:
            await asyncio.sleep(min(30.0, 60 * minutes / 4))
            rss.append(_rss(server))
            done = sum(len(tally.seconds) for tally in calls.tallies.values())
            print(f"{time.monotonic() - began:6.0f} s  {done} answers  {rss[-1]:.0f} MiB", flush=True)
        calls.stopping.set()
        await asyncio.gather(*clients)
        seconds = time.monotonic() - began
        routes = report(calls, seconds)
        faults = [f"{route}: {fault}" for route, tally in calls.tallies.items() for fault in tally.lost + tally.wrong]
        crowd = await overload(http, known)
        faults += crowd.pop("faults")
        return {"seconds": seconds, "routes": routes, "tasks": calls.accepted, "rss": rss, "overload": crowd, "faults": faults}


def report(calls: load_calls.Calls, seconds: float) -> dict[str, dict[str, float]]:
    """A table of what was asked and how long it took."""
    routes: dict[str, dict[str, float]] = {}
    print(f"\n{'':24}   answers   a minute  p50 ms   p95 ms   p99 ms  busy  lost  wrong")
    for route, tally in sorted(calls.tallies.items()):
        p50, p95, p99 = 1000 * np.percentile(tally.seconds, [50, 95, 99]) if tally.seconds else (0.0, 0.0, 0.0)
        count, minute = len(tally.seconds), 60 * len(tally.seconds) / seconds
        trouble = f"{tally.busy:5} {len(tally.lost):5} {len(tally.wrong):6}"
        print(f"{route:24} {count:9} {minute:10.1f} {p50:7.0f} {p95:8.0f} {p99:8.0f} {trouble}")
        ends = {"busy": tally.busy, "lost": len(tally.lost), "wrong": len(tally.wrong)}
        routes[route] = {"answers": count, "a_minute": minute, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, **ends}
    return routes


async def overload(http: httpx.AsyncClient, known: load_calls.Expected) -> dict[str, object]:
    """More than it can take, for a while; what it said, and how soon a short text is answered when all have hung up."""
    idle = await _short(http)
    said: collections.Counter[str] = collections.Counter()
    faults: list[str] = []
    crowd = [asyncio.create_task(_pester(http, path, known, said, faults)) for path, count in CROWD.items() for _ in range(count)]
    await asyncio.sleep(CROWD_SECONDS)
    for each in crowd:
        each.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)
    gone = time.monotonic()
    tries = 0
    while (again := await _short(http)) is None and time.monotonic() - gone < 30:
        tries += 1
        await asyncio.sleep(0.02)
    recovery = time.monotonic() - gone
    print(
        f"\noverload: {dict(said)}; then a short text was answered {recovery:.2f} s after they had gone, {tries} refused before"
    )
    if not any(each.endswith(" 429") for each in said):
        faults.append("overload: nobody was told to come back later")
    if again is None or recovery > RECOVERY_SECONDS:
        faults.append(f"overload: no recovery within {RECOVERY_SECONDS:g} s, but {recovery:.2f} s")
    return {"said": dict(said), "recovery_seconds": recovery, "idle_seconds": idle, "faults": faults}


async def _pester(
    http: httpx.AsyncClient, path: str, known: load_calls.Expected, said: collections.Counter[str], faults: list[str]
) -> None:
    """One of the crowd: does not wait when it is told to."""
    text = load_calls.SENTENCES["English"] * 40
    audio, volume = known.recordings[0][0], known.volumes[0][0]
    forms = {
        "/separate": {"files": {"audio": ("a", audio)}, "data": {"model": load_calls.SEPARATOR}},
        "/segment": {"files": {"volume": ("a", volume)}, "data": {"model": load_calls.SEGMENTER}},
    }
    while True:
        try:
            response = await http.post(path, **forms.get(path, {"json": {"texts": [text] * 5}}))
        except httpx.HTTPError as error:
            said[f"{path} {type(error).__name__}"] += 1
            await asyncio.sleep(0.5)
            continue
        said[f"{path} {response.status_code}"] += 1
        busy = response.status_code == 429
        if not (response.is_success or (busy and response.headers.get("retry-after", "").isdecimal())):
            faults.append(f"overload: {path} {response.status_code} {response.text[:200]}")
        await asyncio.sleep(0.5 if busy else 0.0)


async def _short(http: httpx.AsyncClient) -> float | None:
    """Seconds to the answer to one short text; None where there is none."""
    began = time.monotonic()
    try:
        response = await http.post("/tag", json={"texts": ["Ada lived in London."]}, timeout=10.0)
    except httpx.HTTPError:
        return None
    return time.monotonic() - began if response.is_success else None


def _rss(server: serving.Server) -> float:
    """MiB of all processes of the server."""
    process = psutil.Process(server.process.pid)
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 2**20


if __name__ == "__main__":
    main()
