"""Traces, against a collector in this process; and that nothing is imported while nobody asks for them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest
from layers import calls, layered
from otlp import collecting
from serving import CHECKOUT
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from services import tracing
from services.batching import Batcher
from services.record import note
from services.settings import Settings

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector(monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with collecting() as running:
        tracing.start(running.url)
        yield running
        tracing.stop()
    assert tracing.here() is None


def test_a_request_is_a_span_below_the_callers_with_queue_and_predictor_below_it(collector):
    def work(items: list[str]) -> list[str]:
        time.sleep(0.02)
        return items

    async def tag(request: Request):
        batcher = Batcher(work, cost=len, batch_cost=10, queue_cost=100, name="tagger-en", task="test")
        note(texts=2)
        answers = await asyncio.gather(batcher.submit(["a"]), batcher.submit(["b"]))
        with tracing.span("encode", size=3):
            pass
        await batcher.close()
        return JSONResponse(answers)

    app = layered([Route("/tag/{name}", tag)], Settings())
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "abc"}
    calls(app, ("GET", "/tag/private?private", {"headers": headers}), ("GET", "/nothing/private"))
    collector.wait_for(lambda names: {"GET /tag/{name}", "GET none"} <= set(names))
    spans = {name: (span, attributes) for name, span, attributes in collector.spans}
    request, attributes = spans["GET /tag/{name}"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    known = {"http.request.method": "GET", "http.route": "/tag/{name}", "http.response.status_code": 200}
    assert attributes.items() >= (known | {"convoy.request_id": "abc", "convoy.texts": 2}).items()
    for name in ("queue", "predict", "encode"):
        assert spans[name][0].parent_span_id == request.span_id
        assert spans[name][0].trace_id == request.trace_id
    assert spans["predict"][1]["model"] == "tagger-en"
    assert spans["predict"][0].end_time_unix_nano - spans["predict"][0].start_time_unix_nano >= 19e6
    assert request.start_time_unix_nano - 1e6 <= spans["queue"][0].start_time_unix_nano
    assert spans["predict"][0].end_time_unix_nano <= request.end_time_unix_nano + 1e6
    assert spans["GET none"][1]["error.type"] == "not_found"
    assert "private" not in str(collector.spans)
    assert {"service.name": "convoy"}.items() <= collector.resources[0].items()


def test_without_a_collector_nothing_is_imported():
    code = """
import sys
from services import batching, observer, tracing
tracing.start("")
with tracing.span("x"): pass
assert tracing.here() is None
tracing.past_span("x", None, 0, 1)
tracing.stop()
assert not [name for name in sys.modules if name.startswith("opentelemetry")], sorted(sys.modules)
"""
    environment = {"PATH": "", "PYTHONPATH": str(CHECKOUT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=CHECKOUT)
