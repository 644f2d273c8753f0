"""The work on one item, the same on every engine: fetch, work in a workplace, publish whole, record.

An item whose record says that it is done is not worked on again. Outputs are published before the record is written: whoever is
killed in between leaves outputs without a record, and the next run writes the same bytes over them.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from models.bundle import MANIFEST, open_bundle
from models.errors import BundleError, ConvoyError
from services.batch.fetching import fetched
from services.batch.records import Assignment, ChangedError, Ledger, Record
from services.batch.sources import Item, current_tag
from services.batch.storage import Storage, StorageError, is_full, passing, patiently

log = logging.getLogger("convoy.batch")

Progress = Callable[[float, float], None]
"""Is told how much is done, and of how much."""

_LEAST_ROOM = 2**20  # bytes; libraries do not always say that a disk is full
_HANDLERS = {
    "tag": ("services.batch.text", "TextHandler"),
    "separate": ("services.batch.sound", "SoundHandler"),
    "segment": ("services.batch.volumes", "VolumeHandler"),
}


class Handler(Protocol):
    """The task itself."""

    def __call__(self, source: Path, item: Item, folder: Path, progress: Progress) -> dict[str, Any]:
        """Make the item's outputs below `folder`, under its output name, and say what was in it; InputError where it is bad."""


def open_handler(assignment: Assignment) -> Handler:
    """What does the work of an assignment, with its bundles loaded.

    Raises:
        BundleError: one is missing, damaged, or another than when the run began.
    """
    changed = {digest_of(bundle) for bundle in assignment.bundles} - set(assignment.digests)
    if assignment.digests and changed:
        fix = "Start the run again."
        raise BundleError("a bundle changed after the run began", where=", ".join(assignment.bundles), fix=fix)
    module, name = _HANDLERS[assignment.task]
    handler: Handler = getattr(importlib.import_module(module), name).open(assignment.bundles, dict(assignment.options))
    return handler


def digest_of(bundle: str) -> str:
    """The digest of a bundle's description, which names those of all its files."""
    return hashlib.sha256((open_bundle(bundle).path / MANIFEST).read_bytes()).hexdigest()


def process(item: Item, assignment: Assignment, handler: Handler, progress: Progress) -> Record:
    """What became of one item; written down when this returns.

    Raises:
        StorageError: the output folder cannot be used, or a disk is full. Nothing is recorded.
        BundleError: the bundle is to blame, not the item.
    """
    storage = Storage.at(assignment.out, assignment.patience)
    record = _worked(item, assignment, handler, storage, progress)
    Ledger(storage).write(record)
    return record


def _worked(item: Item, assignment: Assignment, handler: Handler, storage: Storage, progress: Progress) -> Record:
    key = assignment.key(item)
    with storage.workplace() as folder:
        try:
            with fetched(item, assignment.patience, assignment.stdin) as path:
                facts = handler(path, item, folder, progress)
            _refuse_changed(item, assignment.patience)
        except (BundleError, StorageError):
            raise
        except Exception as problem:  # whatever it is, it is this item's, and the others go on
            if is_full(problem) or shutil.disk_usage(folder).free < _LEAST_ROOM:
                fix = "Make room and start the run again: it goes on."
                raise StorageError("the disk is full", where=str(folder), got=problem, fix=fix) from problem
            if not isinstance(problem, ConvoyError):
                log.exception("%s: failed", item.address)
            return Record.failed(item, key, problem, folder)
        return Record.done(item, key, storage.publish(folder), facts)


def _refuse_changed(item: Item, patience: float) -> None:
    """Outputs of half the old and half the new content would be recorded under the old tag."""
    try:
        now = patiently(lambda: current_tag(item), patience if "://" in item.address else 0)
    except Exception as problem:  # as above; what is not a file system's trouble is raised again
        if not isinstance(problem, OSError) and not ("://" in item.address and passing(problem)):
            raise
        now = f"{type(problem).__name__}: {problem}"
    if now != item.tag:
        fix = "Start the run again when nobody writes to it."
        raise ChangedError("the input changed while it was read", where=item.address, expected=item.tag, got=now, fix=fix)
