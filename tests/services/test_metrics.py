"""Metrics: what is counted, that labels are bounded, and that several processes count together."""

from __future__ import annotations

import os
import subprocess
import sys

from layers import calls, layered
from prometheus_client import REGISTRY
from serving import CHECKOUT
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from services import metrics
from services.settings import Settings


async def hello(request: Request):
    return PlainTextResponse("hello")


ROUTES = [Route("/hello/{name}", hello), Route("/page/main-ABC.js", hello)]


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_requests_are_counted_by_template_and_made_up_paths_and_methods_make_no_series():
    route = {"route": "/hello/{name}", "method": "GET", "status": "200"}
    before, timed = value("convoy_requests_total", **route), value("convoy_request_seconds_count", route="/hello/{name}")
    nothing = {"route": "none", "method": "GET", "status": "404"}
    unknown = value("convoy_requests_total", **nothing)
    page = {"route": "/page/*", "method": "GET", "status": "200"}
    pages = value("convoy_requests_total", **page)
    app = layered(ROUTES, Settings())
    calls(app, *(("GET", f"/hello/{number}") for number in range(3)), *(("GET", f"/made-up-{number}") for number in range(4)))
    calls(app, ("BREW", "/hello/1"), ("GET", "/page/main-ABC.js"))
    assert value("convoy_requests_total", **route) == before + 3
    assert value("convoy_request_seconds_count", route="/hello/{name}") >= timed + 3
    assert value("convoy_requests_total", **nothing) == unknown + 4
    assert value("convoy_requests_total", route="/hello/{name}", method="other", status="405") == 1
    assert value("convoy_requests_total", **page) == pages + 1
    labels = [sample.labels for metric in REGISTRY.collect() if metric.name == "convoy_requests" for sample in metric.samples]
    assert not [each for each in labels if "made-up" in str(each) or "BREW" in str(each)]
    assert value("convoy_requests_in_flight") == 0


def test_work_is_counted():
    names = ("convoy_tag_tokens_total", "convoy_separate_audio_seconds_total", "convoy_segment_voxels_total", "convoy_streams")
    before = [value(name) for name in names]
    metrics.tokens(6)
    metrics.audio_seconds(2.5)
    metrics.voxels(1000)
    metrics.streams(1)
    assert [value(name) - known for name, known in zip(names, before, strict=True)] == [6, 2.5, 1000, 1]
    metrics.streams(-1)
    count, total = value("convoy_tag_batch_size_count"), value("convoy_tag_batch_size_sum")
    metrics.batch(7)
    assert (value("convoy_tag_batch_size_count") - count, value("convoy_tag_batch_size_sum") - total) == (1, 7)
    metrics.waiting("segment", 3)
    metrics.waiting("segment", -1)
    assert value("convoy_queue_length", task="segment") == 2
    metrics.waiting("segment", -2)
    metrics.refused("malformed")
    assert value("convoy_connections_refused_total", reason="malformed") >= 1


def test_jobs_are_as_they_were_last_told():
    metrics.jobs({"pending": 2, "in_progress": 1})
    metrics.jobs({"pending": 0, "in_progress": 2})
    assert [value("convoy_jobs", state=state) for state in ("pending", "in_progress")] == [0, 2]


# A server's worker: it counts, then answers a scrape or dies.
WORKER = """
import os, sys
from services import metrics
metrics.own_folder()
metrics.tokens(int(sys.argv[1]))
metrics.began()
metrics.jobs({"pending": int(sys.argv[1])})
if sys.argv[2] == "scrape":
    metrics.prepare_scrape()
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    sys.stdout.write(generate_latest(registry).decode())
os._exit(0)
"""


def test_workers_count_together_and_gauges_of_the_dead_are_gone(tmp_path):
    shared = tmp_path / "prometheus_multiproc_dir"
    stale = tmp_path / "convoy_metrics" / "4194303-1"  # of a server that is gone: no process has so high a number
    stale.mkdir(parents=True)
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(shared)}

    def worker(count: int, then: str) -> str:
        command = [sys.executable, "-c", WORKER, str(count), then]
        return subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True).stdout

    worker(5, "die")
    text = worker(7, "scrape")
    assert "convoy_tag_tokens_total 12.0" in text
    assert "convoy_requests_in_flight 1.0" in text
    assert 'convoy_jobs{state="pending"} 7.0' in text
    [folder] = (tmp_path / "convoy_metrics").iterdir()
    assert folder.name.startswith(f"{os.getpid()}-")
