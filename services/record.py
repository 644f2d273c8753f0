"""What is known of the request or session at hand: the line of the log, the labels of the metrics, the attributes of the span.

Never its content: names, numbers and sizes.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

Fact = str | int | float | list[str]

KEY_IN_SCOPE = "convoy.record"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
CLIENT_GONE = 499  # nginx's number for a client that hung up before the answer began


@dataclass(eq=False, slots=True)
class Record:
    """One request, or one WebSocket from its handshake to its end.

    Attributes:
        id: of the request.
        headers: as they came, the last of each name.
        method: HTTP's, or WEBSOCKET.
        route: what answers, as a template (never the path that was asked for); None where nothing does.
        key: name of the caller's API key.
        status: of the answer; 0 before it has begun.
        close: code with which a WebSocket was closed; 0 before that.
        code: of the error that answered.
        bytes_in, bytes_out: of bodies or messages.
        facts: sizes and names that the endpoint told with `note`.
        error: the exception behind an error status, left by the endpoint.
    """

    id: str
    headers: Mapping[bytes, bytes]
    method: str = ""
    route: str | None = ""
    key: str = ""
    status: int = 0
    close: int = 0
    code: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    facts: dict[str, Fact] = field(default_factory=dict)
    error: BaseException | None = None
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self.started


_current: ContextVar[Record | None] = ContextVar("record", default=None)


def note(**facts: Fact) -> None:
    """Tell the log and the trace of the request at hand what it is about: names of models, counts and sizes, never content.

    Works from any thread to which the request's context was copied; without a request it does nothing.
    """
    if (record := _current.get()) is not None:
        record.facts.update(facts)


@contextmanager
def at_hand(record: Record) -> Iterator[None]:
    """`note` means this record meanwhile."""
    token = _current.set(record)
    try:
        yield
    finally:
        _current.reset(token)


def new_record(scope: MutableMapping[str, Any], route: str | None = "") -> Record:
    """The record of a request or WebSocket that begins now."""
    headers = dict(scope["headers"])
    if offered := scope.get("subprotocols"):  # uvicorn's wsproto takes the header for itself
        headers[b"sec-websocket-protocol"] = ",".join(offered).encode("latin-1", "replace")
    method = scope["method"] if scope["type"] == "http" else "WEBSOCKET"
    return Record(_accepted_id(headers.get(b"x-request-id", b"")), headers, method, route)


def new_id() -> str:
    """Of a request that has none of its own."""
    return secrets.token_hex(16)


def _accepted_id(given: bytes) -> str:
    """The client's own id of its request where it is one that can stand in a log, else a new one."""
    text = given.decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else new_id()


def record_of(scope: MutableMapping[str, Any]) -> Record | None:
    """The record that `services.observer` has put into a scope."""
    return scope.get(KEY_IN_SCOPE)
