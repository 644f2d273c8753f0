"""A collector of traces, as small as a test needs it: OTLP over HTTP, in this process."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Collector:
    """What came, as (name, span, attributes)."""

    url: str = ""
    spans: list[tuple[str, Any, dict[str, Any]]] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(_values(resource.resource.attributes))
            self.spans += [(span.name, span, _values(span.attributes)) for scope in resource.scope_spans for span in scope.spans]

    def of(self, trace: str) -> dict[str, tuple[Any, dict[str, Any]]]:
        """Span and attributes, by name, of the trace of this identity (32 hexadecimal digits)."""
        return {name: (span, more) for name, span, more in self.spans if span.trace_id.hex() == trace}

    def wait_for(self, enough: Callable[[list[str]], bool]) -> None:
        deadline = time.monotonic() + 10
        while not enough([name for name, _, _ in self.spans]):
            assert time.monotonic() < deadline, self.spans
            time.sleep(0.05)


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
