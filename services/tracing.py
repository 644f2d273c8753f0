"""Traces over OTLP, when ``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``CONVOY_OTLP`` says where to; without that, nothing is imported.

Spans: the request (with its log line's facts as attributes, and the caller's ``traceparent`` as parent), ``queue`` (waiting for a
turn) and ``predict`` (the predictor at work). The SDK reads its own variables: ``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER``,
``OTEL_EXPORTER_OTLP_HEADERS`` and the rest.

BentoML's own OpenTelemetry middleware is left out (`services.service`): it makes three spans a request in Python whether anybody
wants them or not, and names them after the path that was asked for.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from services.record import Fact, Record

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

_ADDRESSES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_provider: TracerProvider | None = None
_tracer: Tracer | None = None


def start(address: str) -> None:
    """Send traces to the collector at `address`, such as http://127.0.0.1:4318, or where the SDK's own variables say."""
    global _provider, _tracer
    if not (address or any(os.environ.get(name) for name in _ADDRESSES)):
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    given = OTELResourceDetector().detect().attributes  # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
    _provider = TracerProvider(resource=Resource.create({"service.name": "convoy", **given}))
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{address.rstrip('/')}/v1/traces" if address else None)))
    _tracer = _provider.get_tracer("convoy")


def stop() -> None:
    """Send what is left; may take as long as the collector does."""
    global _provider, _tracer
    if _provider is not None:
        _provider.shutdown()
    _provider = _tracer = None


@contextlib.contextmanager
def request_span(record: Record) -> Iterator[None]:
    """Of a whole request."""
    if _tracer is None:
        yield
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {name: record.headers.get(name.encode(), b"").decode("latin-1") for name in ("traceparent", "tracestate")}
    parent = TraceContextTextMapPropagator().extract(carrier)
    name = f"{record.method} {record.route or 'none'}"
    with _tracer.start_as_current_span(name, parent, SpanKind.SERVER) as span:
        try:
            yield
        finally:
            span.set_attributes(_attributes(record))
            if record.status >= 500:
                span.set_status(Status(StatusCode.ERROR, record.code))


@contextlib.contextmanager
def span(name: str, **attributes: Fact) -> Iterator[None]:
    """Of what is done meanwhile, below the span at hand."""
    if _tracer is None:
        yield
        return
    with _tracer.start_as_current_span(name, attributes=dict(attributes)):
        yield


def here() -> Context | None:
    """What later spans of this request need as their `parent`; None while tracing is off."""
    if _tracer is None:
        return None
    from opentelemetry.context import get_current

    return get_current()


def past_span(name: str, parent: Context | None, began: float, ended: float, **attributes: Fact) -> None:
    """A span after the fact, for work that several requests shared; times are those of `time.perf_counter`."""
    if _tracer is None or parent is None:
        return
    offset = time.time() - time.perf_counter()
    made: Span = _tracer.start_span(name, parent, start_time=_nanoseconds(began + offset), attributes=dict(attributes))
    made.end(_nanoseconds(ended + offset))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _attributes(record: Record) -> dict[str, Any]:
    told: dict[str, Fact] = {
        "http.request.method": record.method,
        "http.route": record.route or "none",
        "http.response.status_code": record.status,
        "http.request.body.size": record.bytes_in,
        "http.response.body.size": record.bytes_out,
        "convoy.request_id": record.id,
        "convoy.key": record.key,
        "error.type": record.code,
    }
    told |= {f"convoy.{name}": fact for name, fact in record.facts.items()}
    return {name: fact for name, fact in told.items() if fact != ""}
