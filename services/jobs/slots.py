"""Which worker lives: worker N holds the lock of its slot, and the operating system lets go of it however the worker ends.

The name of its slot is what a worker signs jobs with. A worker that is started again takes the lowest free slot, so what the dead
one left there is its own; the slots that stay free are looked after by whoever is there.

Several machines may share the folder where its file system passes locks on: NFS 4, CephFS and their like do.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX = "worker-"
_NAME = re.compile(r"worker-[0-9]{1,9}")


class Slots:
    """The slots below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: FileLock | None = None
        self.name = ""
        """Of the slot that this worker holds."""

    def take(self) -> str:
        """Take the lowest free slot until `leave`; returns its name."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = 1
        while (lock := self._try(f"{_PREFIX}{number}")) is None:
            number += 1
        self._own, self.name = lock, f"{_PREFIX}{number}"
        return self.name

    def leave(self) -> None:
        if self._own is not None:
            self._own.release()
        self._own, self.name = None, ""

    @contextlib.contextmanager
    def if_dead(self, name: str) -> Iterator[bool]:
        """Whether no worker holds that slot; then none can take it during the block."""
        lock = self._try(name) if _NAME.fullmatch(name) else None
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()

    def _try(self, name: str) -> FileLock | None:
        # Each attempt its own object: filelock lets the same object in twice.
        lock = FileLock(self._folder / f"{name}.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        return lock
