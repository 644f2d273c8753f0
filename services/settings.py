"""Limits and places of the services, each one an environment variable with a sane default.

| variable                         | default        | what it bounds |
|----------------------------------|----------------|----------------|
| ``CONVOY_BUNDLES``               | ``pretrained`` | folder whose sub-folders are the bundles to serve |
| ``CONVOY_TEMPORARY``             | system's       | folder for uploads and results while they are needed; best not in memory |
| ``CONVOY_MAX_BODY_BYTES``        | 8 388 608      | bytes of a JSON body, counted as they arrive (413) |
| ``CONVOY_MAX_TEXTS``             | 1 000          | texts in one call of ``/tag`` (413) |
| ``CONVOY_MAX_CHARACTERS``        | 200 000        | characters (code points) of one text (413) |
| ``CONVOY_MAX_TOTAL_CHARACTERS``  | 2 000 000      | characters of all texts of one call (413) |
| ``CONVOY_MAX_REQUESTS``          | 256            | requests one worker holds at once, health checks not counted (429) |
| ``CONVOY_QUEUE_CHARACTERS``      | 2 000 000      | characters waiting for one bundle before calls are turned away (429) |
| ``CONVOY_BATCH_CHARACTERS``      | 10 000         | characters given to the network in one batch |
| ``CONVOY_TIMEOUT_SECONDS``       | 60             | seconds to the first byte of the answer (408, 504) |
| ``CONVOY_MAX_AUDIO_BYTES``       | 268 435 456    | bytes of a body with a recording, counted as they arrive (413) |
| ``CONVOY_MAX_AUDIO_SECONDS``     | 3 600          | length of a recording (413) |
| ``CONVOY_MAX_VOICES_BYTES``      | 2 147 483 648  | bytes on disk of the voices of one recording (413) |
| ``CONVOY_AUDIO_TIMEOUT_SECONDS`` | 600            | as CONVOY_TIMEOUT_SECONDS, for calls with a recording |
| ``CONVOY_SEPARATIONS``           | 2              | recordings worked on at once; tasks run one at a time beside them |
| ``CONVOY_QUEUE_SEPARATIONS``     | 16             | recordings waiting for their turn before calls are turned away (429) |
| ``CONVOY_MAX_VOLUME_BYTES``      | 1 073 741 824  | bytes of a body with a volume, counted as they arrive (413) |
| ``CONVOY_MAX_VOXELS``            | 536 870 912    | voxels of a volume, by its header (413) |
| ``CONVOY_VOLUME_TIMEOUT_SECONDS``| 600            | as CONVOY_TIMEOUT_SECONDS, for calls with a volume |
| ``CONVOY_SEGMENTATIONS``         | 1              | volumes worked on at once; each uses every core |
| ``CONVOY_QUEUE_SEGMENTATIONS``   | 16             | volumes waiting for their turn before calls are turned away (429) |
| ``CONVOY_MAX_TASKS``             | 64             | tasks of one kind that wait, run, or are kept for their result (429) |
| ``CONVOY_TASK_SECONDS``          | 3 600          | time a finished task's result is kept |
| ``CONVOY_JOBS``                  | user's state   | folder of accepted tasks, which outlives the server; see `default_jobs` |
| ``CONVOY_JOBS_DATABASE``         | SQLite there   | ``postgresql://…`` where several machines share that folder |
| ``CONVOY_JOB_ATTEMPTS``          | 3              | processes that may die at a task before it is given up |
| ``CONVOY_NICE``                  | 10             | how far recordings and volumes stand back behind short calls, 0 to 19 |
| ``CONVOY_MAX_STREAMS``           | 8              | live streams of one worker at once (closed with 1013) |
| ``CONVOY_MAX_CHUNK_BYTES``       | 1 048 576      | bytes of one message of a live stream (closed with 1009) |
| ``CONVOY_STREAM_IDLE_SECONDS``   | 60             | silence after which a live stream is closed (1008) |
| ``CONVOY_HEAD_SECONDS``          | 10             | seconds in which a request's head has to arrive (408) |
| ``CONVOY_MAX_CONNECTIONS``       | 512            | connections of one worker, idle ones included; see `services.connections` |
| ``CONVOY_API_KEYS_FILE``         | none           | file of API keys, a line each, read when it changes; see `services.keys` |
| ``CONVOY_API_KEYS``              | none           | further keys, separated by commas; without any, everybody may call |
| ``CONVOY_OPEN_PATHS``            | the probes     | what needs no key: /livez,/readyz,/healthz,/metrics; ``none`` closes all |
| ``CONVOY_CORS_ORIGINS``          | none           | origins, separated by commas, whose pages may call; ``*`` for all |
| ``CONVOY_ALLOWED_HOSTS``         | all            | names in the Host header, separated by commas, ``*.example.org`` too (421) |
| ``CONVOY_LOG``                   | terminal's     | ``json``, ``text`` or ``off``; see `services.access_log` |
| ``CONVOY_OTLP``                  | none           | where traces go, http://HOST:4318; see `services.tracing` |
| ``CONVOY_WORKERS``               | 1              | processes; one keeps every core busy, since the network itself is threaded |
| ``CONVOY_CALL_THREADS``          | 4              | threads of a worker for calls that are not asynchronous |
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from dataclasses import field as _field
from pathlib import Path
from typing import Any

from models.errors import BundleError, ConfigError

_CHECKOUT = Path(__file__).resolve().parent.parent
_BUNDLES = _CHECKOUT / "pretrained"
_NICEST = 19


def default_jobs(bundles: Path) -> Path:
    """Where accepted tasks lie unless ``CONVOY_JOBS`` says: a folder of the user's state, for each folder of bundles its own.

    Servers of the same bundles share it, and any of them does what another accepted. The system's folder for temporary files,
    which may be empty after a restart, is taken only where nothing else can be written.
    """
    place = Path(tempfile.gettempdir())
    with contextlib.suppress(RuntimeError):  # a user without a home
        state = Path(os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser())
        known = next((folder for folder in (state, *state.parents) if folder.exists()), state)
        place = state if state.is_absolute() and os.access(known, os.W_OK | os.X_OK) else place
    resolved = bundles.resolve()
    return place / "convoy" / f"jobs-{resolved.name}-{hashlib.sha256(os.fsencode(resolved)).hexdigest()[:8]}"


_JOBS = default_jobs(_BUNDLES)


@dataclass(frozen=True)
class Limits:
    """What one route grants a request: bytes of its body, counted as they arrive, and seconds to the first byte of the answer."""

    body_bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Settings:
    """See the table in the head of this file; every number must be positive."""

    bundles: Path = _BUNDLES
    temporary: Path = Path(tempfile.gettempdir())
    max_body_bytes: int = 8 * 1024 * 1024
    max_texts: int = 1_000
    max_characters: int = 200_000
    max_total_characters: int = 2_000_000
    max_requests: int = 256
    queue_characters: int = 2_000_000
    batch_characters: int = 10_000
    timeout_seconds: float = 60.0
    max_audio_bytes: int = 256 * 1024 * 1024
    max_audio_seconds: float = 3600.0
    max_voices_bytes: int = 2 * 1024**3
    audio_timeout_seconds: float = 600.0
    separations: int = 2
    queue_separations: int = 16
    max_volume_bytes: int = 1024**3
    max_voxels: int = 2**29
    volume_timeout_seconds: float = 600.0
    segmentations: int = 1
    queue_segmentations: int = 16
    max_tasks: int = 64
    task_seconds: float = 3600.0
    jobs: Path = _JOBS
    jobs_database: str = ""
    job_attempts: int = 3
    nice: int = 10
    max_streams: int = 8
    max_chunk_bytes: int = 1024 * 1024
    stream_idle_seconds: float = 60.0
    head_seconds: float = 10.0
    max_connections: int = 512
    api_keys_file: str = ""
    api_keys: str = _field(default="", repr=False)
    open_paths: str = "/livez,/readyz,/healthz,/metrics"
    cors_origins: str = ""
    allowed_hosts: str = ""
    log: str = ""
    otlp: str = ""
    workers: int = 1
    call_threads: int = 4

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Path | str) or (field.name == "nice" and 0 <= value <= _NICEST):
                continue
            if field.name == "nice" or not 0 < value < float("inf"):
                expected = f"0 to {_NICEST}" if field.name == "nice" else "a number above 0"
                raise ConfigError("a limit is out of range", where=_variable(field.name), expected=expected, got=value)

    @property
    def limits(self) -> Limits:
        """What routes grant that have no limits of their own."""
        return Limits(self.max_body_bytes, self.timeout_seconds)

    @property
    def audio_limits(self) -> Limits:
        """What routes grant that take a recording."""
        return Limits(self.max_audio_bytes, self.audio_timeout_seconds)

    @property
    def volume_limits(self) -> Limits:
        """What routes grant that take a volume."""
        return Limits(self.max_volume_bytes, self.volume_timeout_seconds)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read ``CONVOY_…`` variables; an empty one counts as not set.

        Raises:
            ConfigError: a value is not a number or not above 0.
        """
        given = {field.name: environment.get(_variable(field.name), "") for field in fields(cls)}
        kinds = {field.name: type(field.default) for field in fields(cls)}
        converted: dict[str, Any] = {name: _convert(name, text, kinds[name]) for name, text in given.items() if text}
        if "bundles" in converted:
            converted.setdefault("jobs", default_jobs(converted["bundles"]))
        return cls(**converted)


def listed(text: str) -> list[str]:
    """The parts of a setting that are separated by commas; ``none`` is no part."""
    return [part for part in map(str.strip, text.split(",")) if part and part != "none"]


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


def _convert(name: str, text: str, kind: type[object]) -> Path | str | float | int:
    if issubclass(kind, Path | str):
        return Path(text) if issubclass(kind, Path) else text
    number = float if kind is float else int
    try:
        return number(text)
    except ValueError as error:
        raise ConfigError("a setting is not a number", where=_variable(name), expected=number.__name__, got=text) from error
