"""What the web page is made of, as routes: the files that ``make page`` built, and the samples that the page offers.

Each file has a route of its own, found when the service starts: no path that a client sends ever becomes a path on the disk, and
what is not there is not counted. Built scripts and styles have their digest in their name and may be kept for ever; the page
itself, icon, licences and samples are asked for again, by ETag. Text is sent packed to whoever takes it so.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "page"
BUILT, SAMPLES = FOLDER / "dist", FOLDER / "samples"

# Nothing but this server, and no script or style that stands in the page itself. The viewer of volumes and the pictures of the
# server are images from memory, recordings come from the microphone's own thread.
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
}

_KINDS = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".flac": "audio/flac",
    ".gz": "application/gzip",
}
_PACKED = frozenset({".html", ".js", ".css", ".svg", ".txt"})
_NAMED_BY_DIGEST = re.compile(r"-[A-Z0-9]{8}\.(?:js|css)$")
_FOR_EVER, _ASK_AGAIN = "public, max-age=31536000, immutable", "no-cache"


@dataclass(frozen=True)
class PageFile:
    """One file, as it is sent.

    Attributes:
        path: on the disk; read once, when it is first asked for.
    """

    path: Path

    @functools.cached_property
    def content(self) -> bytes:
        return self.path.read_bytes()

    @functools.cached_property
    def packed(self) -> bytes:
        return gzip.compress(self.content, mtime=0)

    @functools.cached_property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'

    def answer(self, request: Request) -> Response:
        """The file, packed if the client takes that; 304 if the client has it."""
        kept = _FOR_EVER if _NAMED_BY_DIGEST.search(self.path.name) else _ASK_AGAIN
        headers = {"ETag": self.etag, "Cache-Control": kept}
        if self.path.suffix == ".html":
            headers |= HEADERS
        if self.path.suffix in _PACKED:
            headers["Vary"] = "Accept-Encoding"
        if self.etag in request.headers.get("if-none-match", "").replace("W/", "").split(", "):
            return Response(status_code=304, headers=headers)
        content = self.content
        if self.path.suffix in _PACKED and re.search(
            r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\b)", request.headers.get("accept-encoding", "")
        ):
            headers["Content-Encoding"], content = "gzip", self.packed
        return Response(content, media_type=_KINDS[self.path.suffix], headers=headers)


INDEX = PageFile(BUILT / "index.html")


def page_routes() -> list[Route]:
    """Routes of everything that the page asks for, but the page itself."""
    built = [BUILT / name for name in _manifest()["built"] if name != "index.html"]
    samples = sorted(path for path in SAMPLES.iterdir() if path.suffix in {".flac", ".gz"})
    places = [*((f"/page/{path.name}", path) for path in built), *((f"/page/samples/{path.name}", path) for path in samples)]
    return [Route(place, _answering(PageFile(path)), methods=["GET"], name=f"page:{path.name}") for place, path in places]


def _answering(file: PageFile) -> Callable[[Request], Response]:
    return file.answer


def _manifest() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((BUILT / "manifest.json").read_text(encoding="utf-8"))
    return found
