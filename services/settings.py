"""Limits and places of the services, each one an environment variable with a sane default.

| variable                      | default         | what it bounds                                                              |
|-------------------------------|-----------------|-----------------------------------------------------------------------------|
| ``CONVOY_BUNDLES``            | ``pretrained``  | folder whose sub-folders are the bundles to serve                           |
| ``CONVOY_MAX_BODY_BYTES``     | 8 388 608       | bytes of a request body, counted as they arrive (413)                       |
| ``CONVOY_MAX_TEXTS``          | 1 000           | texts in one call of ``/tag`` (413)                                         |
| ``CONVOY_MAX_CHARACTERS``     | 200 000         | characters (code points) of one text (413)                                  |
| ``CONVOY_MAX_TOTAL_CHARACTERS`` | 2 000 000     | characters of all texts of one call (413)                                   |
| ``CONVOY_MAX_REQUESTS``       | 256             | requests one worker holds at once, health checks not counted (429)          |
| ``CONVOY_QUEUE_CHARACTERS``   | 2 000 000       | characters waiting for one bundle before calls are turned away (429)        |
| ``CONVOY_BATCH_CHARACTERS``   | 20 000          | characters given to the network in one batch                                |
| ``CONVOY_TIMEOUT_SECONDS``    | 60              | time from the first byte of a request to the first of its answer (408, 504) |
| ``CONVOY_WORKERS``            | 1               | processes; one keeps every core busy, since the network itself is threaded  |
| ``CONVOY_CALL_THREADS``       | 4               | threads of a worker for calls that are not asynchronous                     |
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from models.errors import BundleError, ConfigError

_CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Settings:
    """See the table in the head of this file; every number must be positive."""

    bundles: Path = _CHECKOUT / "pretrained"
    max_body_bytes: int = 8 * 1024 * 1024
    max_texts: int = 1_000
    max_characters: int = 200_000
    max_total_characters: int = 2_000_000
    max_requests: int = 256
    queue_characters: int = 2_000_000
    batch_characters: int = 20_000
    timeout_seconds: float = 60.0
    workers: int = 1
    call_threads: int = 4

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, Path) and not 0 < value < float("inf"):
                raise ConfigError("a limit is out of range", where=_variable(field.name), expected="a number above 0", got=value)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read ``CONVOY_…`` variables; an empty one counts as not set.

        Raises:
            ConfigError: a value is not a number or not above 0.
        """
        given = {field.name: environment.get(_variable(field.name), "") for field in fields(cls)}
        return cls(**{name: _convert(name, text) for name, text in given.items() if text})  # type: ignore[arg-type]


def service_config() -> dict[str, Any]:
    """BentoML's own settings of every service here; its time and load limits are replaced by ours (see `services.http`)."""
    settings = Settings.from_environment()
    return {"workers": settings.workers, "threads": settings.call_threads}


def bundle_folders(folder: Path, task: str) -> list[Path]:
    """Folders below `folder` whose ``bundle.json`` names `task`, sorted by name.

    Only the task is read here; loading the bundle checks everything else.

    Raises:
        BundleError: a ``bundle.json`` cannot be read, so that nobody could say whether it should have been served.
    """
    return [path.parent for path in sorted(folder.glob("*/bundle.json")) if _task(path) == task]


def _task(path: Path) -> object:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = "the bundle's description cannot be read"
        raise BundleError(problem, where=str(path), expected="a JSON object", got=error) from error
    return content.get("task") if isinstance(content, dict) else None


def _variable(name: str) -> str:
    return f"CONVOY_{name.upper()}"


def _convert(name: str, text: str) -> Path | float | int:
    if name == "bundles":
        return Path(text)
    kind = float if name == "timeout_seconds" else int
    try:
        return kind(text)
    except ValueError as error:
        raise ConfigError("a setting is not a number", where=_variable(name), expected=kind.__name__, got=text) from error
