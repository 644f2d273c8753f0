"""Prometheus metrics at ``/metrics``: what this service counts, in functions that whoever does the work calls.

They live in BentoML's registry, in the files of prometheus_client's multi-process mode, so that any worker answers for all of
them. BentoML keeps those files in one folder of the user's, which every server empties when it starts: two on one machine would
rob each other. Ours are in a folder for each server (`own_folder`).

Labels are templates of routes, names of tasks and states: what clients send makes no series.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "WEBSOCKET"})


@cache
def _meters() -> Any:
    """Made when first needed: prometheus_client must not be imported before the environment says where its files are."""
    from prometheus_client import Counter, Gauge, Histogram

    def gauge(name: str, about: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, about, labels, multiprocess_mode="livesum")

    labels = ("route", "method", "status")
    return SimpleNamespace(
        requests=Counter("convoy_requests_total", "Requests answered, and WebSockets closed.", labels),
        seconds=Histogram("convoy_request_seconds", "From a request's head to its answer's end.", ("route",), buckets=_SECONDS),
        in_flight=gauge("convoy_requests_in_flight", "Requests that are being answered, and WebSockets that are open."),
        refused=Counter("convoy_connections_refused_total", "Connections closed without an answer of the service.", ("reason",)),
        tokens=Counter("convoy_tag_tokens_total", "Tokens tagged."),
        batch=Histogram("convoy_tag_batch_size", "Texts in a batch of the tagger.", buckets=_TEXTS),
        audio=Counter("convoy_separate_audio_seconds_total", "Seconds of sound separated."),
        voxels=Counter("convoy_segment_voxels_total", "Voxels segmented."),
        waiting=gauge("convoy_queue_length", "Texts, recordings or volumes that wait for their turn.", ("task",)),
        streams=gauge("convoy_streams", "Live streams that are open."),
        jobs=Gauge("convoy_jobs", "Jobs by state.", ("state",), multiprocess_mode="livemostrecent"),
    )


@cache
def _counted(route: str, method: str, status: int) -> tuple[Any, Any]:
    meters = _meters()
    return meters.requests.labels(route, method, status), meters.seconds.labels(route)


@cache
def _waiting(task: str) -> Any:
    return _meters().waiting.labels(task)


def began() -> None:
    """A request, or a WebSocket."""
    _meters().in_flight.inc()


def ended(route: str | None, method: str, status: int, seconds: float) -> None:
    """What began is over; `route` is a template, None where nothing answers."""
    total, duration = _counted(route or "none", method if method in _METHODS else "other", status)
    total.inc()
    duration.observe(seconds)
    _meters().in_flight.dec()


def refused(reason: str) -> None:
    """A connection was closed without an answer of the service."""
    _meters().refused.labels(reason).inc()


def tokens(count: int) -> None:
    """So many were tagged."""
    _meters().tokens.inc(count)


def batch(texts: int) -> None:
    """The tagger works on so many together."""
    _meters().batch.observe(texts)


def audio_seconds(seconds: float) -> None:
    """So much sound was separated."""
    _meters().audio.inc(seconds)


def voxels(count: int) -> None:
    """So many were segmented."""
    _meters().voxels.inc(count)


def waiting(task: str, change: int) -> None:
    """So many more (or fewer) pieces of work wait."""
    _waiting(task).inc(change)


def streams(change: int) -> None:
    """So many more (or fewer) live streams are open."""
    _meters().streams.inc(change)


def jobs(counts: Mapping[str, int]) -> None:
    """How many jobs there are in each state, in all processes: whoever said it last is right."""
    for state, count in counts.items():
        _meters().jobs.labels(state).set(count)


def prepare_scrape() -> None:
    """Forget the gauges of workers that are gone."""
    forget_dead(Path(os.environ.get(_FOLDER, "")))


def own_folder() -> None:
    """Move the metrics' files of this worker, of which there are none yet, into a folder that its server's workers share.

    Without a supervisor (in a test, say) nothing is done.
    """
    if not (shared := os.environ.get(_FOLDER)):
        return
    home, server = Path(shared).with_name("convoy_metrics"), os.getppid()
    folder = home / f"{server}-{_start_of(server)}"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[_FOLDER] = str(folder)
    for other in home.iterdir():
        if not _lives(other.name.partition("-")[0]):
            shutil.rmtree(other, ignore_errors=True)
    forget_dead(folder)


def forget_dead(folder: Path) -> None:
    """Remove the gauges of processes that are gone: what they held is held no more. What they counted stays counted."""
    for file in folder.glob("gauge_live*_*.db"):
        if not _lives(file.stem.rpartition("_")[2]):
            with contextlib.suppress(FileNotFoundError):  # another worker was faster
                file.unlink()


def _start_of(pid: int) -> str:
    """When a process began, in a unit of its own: numbers of processes come again, in containers with each start."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:  # not Linux
        return "0"


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):  # somebody else's; no number
        return True
    return True
