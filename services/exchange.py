"""One request and its answer, between the server and the application: the body counted, the time limited, errors in one shape."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from http import HTTPStatus

from starlette.requests import ClientDisconnect

from models.errors import ConvoyError, TooLargeError, shorten
from services.http import (
    PROBES,
    App,
    Message,
    Receive,
    Scope,
    Send,
    SlowClientError,
    TooSlowError,
    error_body,
    error_fields,
    error_headers,
    kept_headers,
    status_error,
    status_of,
)
from services.record import Record
from services.settings import Limits

log = logging.getLogger("convoy.http")

_DRAIN_BYTES, _DRAIN_SECONDS = 64 * 1024 * 1024, 5.0


class Exchange:
    """Stands between the server's `receive` and `send` and the application.

    Args:
        limits: bytes of the body, seconds to the first byte of the answer.
        record: where bytes are counted, and where the application leaves the exception behind an error status.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits, record: Record) -> None:
        self.scope, self.limits, self.record, self.headers = scope, limits, record, record.headers
        self._receive, self._send = receive, send
        self._asked = False  # for the body: from then on a client that waits for "100 Continue" sends it
        self._complete = False  # the whole body has arrived
        self._answered = False  # the answer has begun
        self._failed: Message | None = None  # the start of an error answer from inside, held back
        self._gone = asyncio.Event()  # the client hung up
        self._watcher: asyncio.Task[None] | None = None
        self._task: asyncio.Task[object] | None = None  # the one that works, while it does
        self._clock: asyncio.Timeout | None = None

    async def run(self, app: App) -> None:
        """Let `app` answer, within the time limit, and only as long as the client is there."""
        try:
            error = await self._work(app)
            if self._answered:
                if error and not self._gone.is_set() and self.record.error is None:
                    log.error("request %s failed after its answer had begun", self.record.id, exc_info=error)
            elif not self._gone.is_set() and (error := self.record.error or error or self._unexplained()):
                await self.fail(error)
        finally:
            self.record.error = None  # no cycle through its traceback: freed now, not at the next collection

    async def _work(self, app: App) -> BaseException | None:
        """What went wrong; a client who hangs up cancels the work."""
        self._task = asyncio.current_task()
        try:
            async with asyncio.timeout(self.limits.seconds) as self._clock:
                await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self._gone.is_set():  # the server stops
                raise
        except Exception as error:  # noqa: BLE001 (whatever it is, it is answered and logged)
            expired = isinstance(error, TimeoutError) and self._clock is not None and self._clock.expired()
            return self._too_slow() if expired else error
        finally:
            working, self._task, self._clock = self._task, None, None
            if self._watcher is not None:
                self._watcher.cancel()
            if self._gone.is_set() and working is not None and working.cancelling():
                working.uncancel()
        return None

    def _unexplained(self) -> Exception | None:
        return status_error(self._failed["status"], self.scope) if self._failed else None

    def _too_slow(self) -> ConvoyError:
        limit = f"at most {self.limits.seconds:g} s"
        if self._complete or not self._has_body():
            return TooSlowError("no answer within the time limit", expected=limit, fix="Send less at once or try again later.")
        return SlowClientError("the body did not arrive within the time limit", expected=limit, fix="Send less at once.")

    def _has_body(self) -> bool:
        return b"transfer-encoding" in self.headers or self.headers.get(b"content-length", b"0") != b"0"

    async def receive(self) -> Message:
        """The client's next message; counts the body.

        Raises:
            TooLargeError: the body is over the limit.
        """
        if self._complete:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        message = await self._next()
        if self.record.bytes_in > self.limits.body_bytes:
            error = self._too_large(f"more than {self.limits.body_bytes}")
            self.record.error = error
            raise error
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._watcher = asyncio.ensure_future(self._watch())
        return message

    async def _next(self) -> Message:
        self._asked = True
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._gone.set()
            self._complete = True
        else:
            self.record.bytes_in += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
        return message

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()
        if self._task is not None:
            self._task.cancel()

    def declared_too_large(self) -> TooLargeError | None:
        """The error of a body that is too large by its own account; one that claims less than it sends is found by counting."""
        declared = self.headers.get(b"content-length", b"")
        too_large = declared.isdigit() and (len(declared) > 18 or int(declared) > self.limits.body_bytes)
        return self._too_large(shorten(declared.decode(), 20)) if too_large else None

    def _too_large(self, got: str) -> TooLargeError:
        limit, fix = f"at most {self.limits.body_bytes} bytes", "Send several smaller requests."
        return TooLargeError("the body is too large", where="body", expected=limit, got=f"{got} bytes", fix=fix)

    async def send(self, message: Message) -> None:
        """The application's answer; errors are held back and replaced by ours, except those of the health checks."""
        if message["type"] == "http.response.start":
            if message["status"] >= 400 and not (self.scope["path"] in PROBES and self.scope["method"] in {"GET", "HEAD"}):
                self._failed = message
                return
            self._begin()
            message = {**message, "headers": [*message.get("headers", []), *self._own_headers()]}
        elif self._failed is not None:
            # Starlette answers 500 and raises what it was about: that is waited for.
            ours = self._failed["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR
            if not message.get("more_body", False) and (self.record.error or not ours):
                await self.fail(self.record.error or status_error(self._failed["status"], self.scope))
            return
        await self._send(message)

    async def fail(self, error: BaseException) -> None:
        """Send the one shape of an error, and log it if it is ours."""
        if isinstance(error, ClientDisconnect) or self._answered:
            return
        self._begin()
        status, self.record.code = status_of(error), error_fields(error)["code"]
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            route = f"{self.scope['method']} {shorten(self.scope['path'])}"
            log.error("request %s failed: %s", self.record.id, route, exc_info=error)
        if not isinstance(error, SlowClientError):
            await self._drain()
        body = error_body(error, self.record.id)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        inside = self._failed.get("headers", []) if self._failed else []
        headers += [*self._own_headers(), *(error_headers(error) or kept_headers(inside))]
        if not self._complete and self._has_body():
            headers.append((b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    def _own_headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"x-request-id", self.record.id.encode()), (b"x-content-type-options", b"nosniff")]

    def _begin(self) -> None:
        """The answer begins; the time limit was for that."""
        self._answered = True
        if self._clock is not None and not self._clock.expired():
            self._clock.reschedule(None)

    async def _drain(self) -> None:
        """Read on for a while before an error: a client in the middle of sending would get a reset instead of the answer."""
        waits = not self._asked and self.headers.get(b"expect", b"").lower() == b"100-continue"
        if waits or self._complete or not self._has_body():
            return
        limit = self.record.bytes_in + _DRAIN_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._complete and self.record.bytes_in < limit:
                    await self._next()
