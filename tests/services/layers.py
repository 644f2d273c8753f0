"""The layers of the service over a small application."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from services.cors import with_cors
from services.front import Front
from services.keys import Keys
from services.observer import Observer
from services.settings import Limits, Settings


def layered(
    routes: Sequence[BaseRoute],
    settings: Settings,
    limits: Mapping[str, Limits] | None = None,
    keys: Keys | None = None,
    inner: Any = None,
) -> Observer:
    """As `services.service` puts them together, over `inner` or what answers these routes."""
    front = Front(inner or Starlette(routes=routes), settings, limits or {}, keys)
    return Observer(with_cors(front, settings.cors_origins), routes)


def calls(app: Any, *requests: tuple) -> list[httpx.Response]:
    """The answers to requests (method, path, options), one after the other."""

    async def main() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return [await client.request(*request[:2], **(request[2] if len(request) > 2 else {})) for request in requests]

    return asyncio.run(main())
