"""The service's log: a line for each request, session and job, and everything else that is said, on stdout.

``CONVOY_LOG`` is ``json`` (each line an object), ``text`` (for people) or ``off`` (no line for requests; errors as text). Where
it is not set it is ``text`` on a terminal, else ``json``.

    {"ts": "2026-01-31T12:00:00.123Z", "event": "request", "id": "…", "method": "POST", "route": "/tag", "status": 200, "ms": 3.1,
     "bytes_in": 42, "bytes_out": 812, "key": "laboratory", "models": ["tagger-en"], "texts": 1, "characters": 29, "tokens": 6}

Never content: no path but the route's template, no query, no header, no name of a file, no key but its name. Health checks and
scrapes that went well are left out.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from http import HTTPStatus

from models.errors import ConfigError
from services.http import PROBES, request_id
from services.record import Fact, Record

log = logging.getLogger("convoy.access")

_FORMS = ("json", "text", "off")
_NOT_TOLD = "-"


def configure(form: str) -> None:
    """Set the log of this process up; BentoML has set up its own before.

    Raises:
        ConfigError: there is no such form.
    """
    form = form or ("text" if sys.stdout.isatty() else "json")
    if form not in _FORMS:
        raise ConfigError("no such form of log", where="CONVOY_LOG", expected="one of " + ", ".join(_FORMS), got=form)
    log.setLevel(logging.WARNING if form == "off" else logging.INFO)
    # Each request has its line here already; without a handler uvicorn does not even write its own.
    logging.getLogger("uvicorn.access").propagate = False
    log.propagate = False
    log.handlers = [logging.StreamHandler(sys.stdout)]
    if form == "json":
        formatter = JsonFormatter()
        loggers = [logging.getLogger(), log, *map(logging.getLogger, ("bentoml", "uvicorn.error"))]
        for handler in (handler for logger in loggers for handler in logger.handlers):
            handler.setFormatter(formatter)


class JsonFormatter(logging.Formatter):
    """Each record as one line of JSON: what `write` gave, or the message with its level, its logger and its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {"ts": _timestamp(record.created)}
        if isinstance(facts := getattr(record, "facts", None), dict):
            line |= facts
        else:
            line |= {"level": record.levelname, "logger": record.name, "id": request_id.get(), "message": record.getMessage()}
            if record.exc_info:
                line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace").decode()


def write(event: str, **facts: Fact | None) -> None:
    """A line of the log; facts that are None, empty or ``-`` are left out."""
    if log.isEnabledFor(logging.INFO):
        told = {"event": event} | {name: value for name, value in facts.items() if value not in (None, "", _NOT_TOLD)}
        text = " ".join(f"{name}={_plain(value)}" for name, value in told.items() if name != "event")
        log.info("%s %s %s", f"{datetime.now(UTC):%H:%M:%S}", event, text, extra={"facts": told})


def write_request(record: Record) -> None:
    """The line of a request that is over, or of a WebSocket."""
    if record.route in PROBES and record.status < HTTPStatus.BAD_REQUEST:
        return
    write(
        "stream" if record.method == "WEBSOCKET" else "request",
        id=record.id,
        method=record.method,
        route=record.route,
        status=record.status,
        close=record.close or None,
        code=record.code,
        ms=round(record.seconds * 1e3, 2),
        bytes_in=record.bytes_in,
        bytes_out=record.bytes_out,
        key=record.key,
        **record.facts,
    )


def write_job(record: Record, kind: str, state: str) -> None:
    """The line of a job whose work is over. Its own id is what fetches its result, so it is left out.

    Args:
        record: under the id of the request that submitted it, begun with the work.
        kind: of work, such as ``separate``.
        state: how it ended.
    """
    milliseconds = round(record.seconds * 1e3, 2)
    write("job", id=record.id, kind=kind, state=state, code=record.code, ms=milliseconds, key=record.key, **record.facts)


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
