"""What every request passes before the application: hosts, keys, limits, and errors in one shape.

`Front` wraps the whole application (in `services.service`) instead of being added with ``service.add_asgi_middleware``:
BentoML puts such middleware inside its own, which answers 429 and 504 in shapes of its own, and keeps a timer per request for a
minute after the answer.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from models.errors import InputError, shorten
from services.batching import BusyError
from services.cors import check_origin
from services.exchange import Exchange
from services.http import PROBES, App, Receive, Scope, Send, deny, error_fields, status_error, status_of
from services.identity import caller
from services.keys import Keys
from services.record import Record, new_record, record_of
from services.settings import Limits, Settings, listed

PAGE = re.compile(r"/|/page/.*")  # and what it is made of: it asks for the key


class HostRefusedError(InputError):
    """The request is meant for another host; or a page made its visitor's browser believe that we are its own."""

    code, status = "host_refused", 421


class Front:
    """Pure ASGI middleware: what may not pass is answered here.

    WebSockets are refused before their handshake; their limits are the endpoint's own (`services.streams`).

    Args:
        app: what answers.
        settings: limits, hosts, what is open without a key.
        limits: by path, of routes that grant more or less than the settings say for all.
        keys: who may call; None lets everybody.
    """

    def __init__(
        self, app: App, settings: Settings, limits: Mapping[str, Limits] = MappingProxyType({}), keys: Keys | None = None
    ) -> None:
        self.app, self.settings, self.limits, self.keys = app, settings, limits, keys
        self._open_paths, self._hosts = frozenset(listed(settings.open_paths)), _host_pattern(settings.allowed_hosts)
        self._origins = frozenset(listed(settings.cors_origins))
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        record = record_of(scope) or new_record(scope)
        refusal = self._refusal(scope, record)
        with _calling(record.key):
            if scope["type"] == "http":
                await self._request(scope, receive, send, record, refusal)
            elif refusal is None:
                await self.app(scope, receive, send)
            else:
                record.status, record.code = status_of(refusal), error_fields(refusal)["code"]
                await deny(scope, receive, send, refusal)

    async def _request(self, scope: Scope, receive: Receive, send: Send, record: Record, refusal: Exception | None) -> None:
        exchange = Exchange(scope, receive, send, self.limits.get(scope["path"], self.settings.limits), record)
        counted = scope["path"] not in PROBES
        self._held += counted
        try:
            if counted and self._held > self.settings.max_requests:
                refusal = refusal or BusyError("too many requests at once", expected=f"at most {self.settings.max_requests}")
            refusal = refusal or exchange.declared_too_large()
            await (exchange.fail(refusal) if refusal else exchange.run(self.app))
        finally:
            self._held -= counted

    def _refusal(self, scope: Scope, record: Record) -> Exception | None:
        """Why this one may not pass; notes whose it is. Strangers are not told what there is."""
        try:
            self._check_host(record.headers.get(b"host", b"").decode("latin-1"), scope)
            if scope["type"] == "websocket":
                self._check_origin(record.headers)
            if self.keys is not None and not self._open(scope):
                record.key = self.keys.check(record.headers)
        except InputError as error:
            return error
        return status_error(404, scope) if record.route is None else None

    def _check_origin(self, headers: Mapping[bytes, bytes]) -> None:
        origin = headers[b"origin"].decode("latin-1") if b"origin" in headers else None
        check_origin(origin, headers.get(b"host", b"").decode("latin-1"), self._origins)

    def _open(self, scope: Scope) -> bool:
        if scope["path"] in self._open_paths:
            return True
        return scope["type"] == "http" and scope["method"] in {"GET", "HEAD"} and PAGE.fullmatch(scope["path"]) is not None

    def _check_host(self, host: str, scope: Scope) -> None:
        if self._hosts is not None and scope["path"] not in PROBES and not self._hosts.fullmatch(host):
            expected = f"one of {self.settings.allowed_hosts}"
            raise HostRefusedError("not a name of this service", where="Host header", expected=expected, got=shorten(host, 80))


def _host_pattern(allowed: str) -> re.Pattern[str] | None:
    """Of Host headers, with any port; ``*.example.org`` are the hosts below example.org."""
    names = [re.escape(name).replace(r"\*\.", r"([a-z0-9-]+\.)+") for name in listed(allowed)]
    return re.compile(rf"({'|'.join(names)})(:\d+)?", re.IGNORECASE) if names else None


@contextlib.contextmanager
def _calling(name: str) -> Iterator[None]:
    token = caller.set(name)
    try:
        yield
    finally:
        caller.reset(token)
