"""Folders for what an upload brings and what is made of it, gone as soon as nobody needs them.

All of a process lie in one folder of its own below ``CONVOY_TEMPORARY``, locked while the process lives: what a killed one left
behind is found by its free lock, and removed by the next service that starts there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from models.errors import ConfigError, UnavailableError

_PREFIX, _LOCK = "convoy-", "lock"
_YOUNG = 60  # seconds; a folder may be that new and its lock not taken yet


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """A full or broken disk is our trouble, and one that may pass (503).

    Raises:
        UnavailableError: in place of an OSError, and of a ConfigError that comes of one (what predictors say of their output).
    """
    try:
        yield
    except (OSError, ConfigError) as problem:
        cause = problem.__cause__ if isinstance(problem, ConfigError) else problem
        if cause is None:
            raise
        got = cause.strerror if isinstance(cause, OSError) else cause
        raise UnavailableError("no room to store the upload or its result", got=got, fix="Try again later.") from problem


def remove_folder(path: Path) -> None:
    """Now, with all that is in it; whatever cannot be removed stays."""
    shutil.rmtree(path, ignore_errors=True)


class Workspace:
    """A folder that exists until `remove`, and then as long as somebody is still at work in it.

    Args:
        path: the folder.
        sweep: how folders are removed: `remove_folder`, or for who does not wait for the disk `Janitor.sweep`.
    """

    def __init__(self, path: Path, sweep: Callable[[Path], None]) -> None:
        self.path, self._sweep = path, sweep
        self._lock = threading.Lock()
        self._users = 0
        self._unwanted = False

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Path]:
        """Keep the folder for the duration of the block, whoever removes it meanwhile; for any thread."""
        with self._lock:
            self._users += 1
        try:
            yield self.path
        finally:
            self._leave(users=-1)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder in this one for the duration of the block."""
        path = Path(tempfile.mkdtemp(prefix="scratch-", dir=self.path))
        try:
            yield path
        finally:
            self._sweep(path)

    @contextlib.contextmanager
    def removed_on_error(self) -> Iterator[Workspace]:
        """Give the folder up where the block raises."""
        try:
            yield self
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Give the folder up; may be said twice. Does not wait for the disk."""
        self._leave(unwanted=True)

    def _leave(self, *, users: int = 0, unwanted: bool = False) -> None:
        with self._lock:
            self._users += users
            before, self._unwanted = self._unwanted, self._unwanted or unwanted
            last = self._unwanted and self._users == 0 and (users or not before)
        if last:
            self._sweep(self.path)


class Janitor:
    """Removes folders in a thread of its own: the event loop does not wait for the disk."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="janitor")

    def sweep(self, path: Path) -> None:
        try:
            self._thread.submit(remove_folder, path)
        except RuntimeError:  # closed
            remove_folder(path)

    def close(self) -> None:
        self._thread.shutdown()


class Workspaces:
    """Makes workspaces below `place`; nothing is made before the first one is asked for."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._janitor = Janitor()
        self._root: Path | None = None
        self._lock: FileLock | None = None
        self._changing = threading.Lock()  # who asks may be any thread
        self._numbers = itertools.count()
        remove_orphans(place)

    def new(self) -> Workspace:
        """An empty folder, readable by this user alone.

        Raises:
            UnavailableError: there is no room or no right to make one.
        """
        with disk_errors(), self._changing:
            try:
                return Workspace(self._folder(), self._janitor.sweep)
            except FileNotFoundError:  # systems remove from /tmp what nobody has touched for days
                self._leave_root()
                return Workspace(self._folder(), self._janitor.sweep)

    def close(self) -> None:
        """Remove everything."""
        self._janitor.close()
        with self._changing:
            self._leave_root()

    def _folder(self) -> Path:
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._place))
            self._lock = FileLock(self._root / _LOCK, thread_local=False)
            self._lock.acquire(blocking=False)
        path = self._root / str(next(self._numbers))
        path.mkdir(mode=0o700)
        return path

    def _leave_root(self) -> None:
        if self._lock is not None:
            self._lock.release()
        if self._root is not None:
            remove_folder(self._root)
        self._root = self._lock = None


def remove_orphans(place: Path) -> None:
    """Remove the folders of processes that were killed."""
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, Timeout):
            if _ours_and_old(folder) and (folder / _LOCK).is_file():
                with FileLock(folder / _LOCK, blocking=False):
                    remove_folder(folder)


def _ours_and_old(folder: Path) -> bool:
    about = folder.lstat()
    owner = not hasattr(os, "getuid") or about.st_uid == os.getuid()
    return stat.S_ISDIR(about.st_mode) and owner and time.time() - about.st_mtime > _YOUNG


@dataclass(frozen=True)
class Made:
    """The file that answers a call.

    Attributes:
        path: in its workspace.
        name: what the client should call it.
        kind: its media type.
        headers: of the answer.
        content: of the file, where it was read beforehand.
    """

    path: Path
    name: str
    kind: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = field(default=None, repr=False)

    def read(self) -> Made:
        """The same, with its content where that is no longer than what is held of any file while it is sent.

        For the thread that made it: sending then needs no other, and a small answer is out a millisecond or two sooner.
        """
        with self.path.open("rb") as file:
            content = file.read(FileAnswer.chunk_size + 1)
        return self if len(content) > FileAnswer.chunk_size else replace(self, content=content)

    def answer(self, workspace: Workspace, *, last: bool) -> FileAnswer:
        """The file, to be sent; see `FileAnswer`."""
        answer = FileAnswer(self.path, name=self.name, kind=self.kind, workspace=workspace, last=last, content=self.content)
        answer.headers.update(self.headers)
        return answer

    def as_dict(self, folder: Path) -> dict[str, Any]:
        """In JSON, for one who knows the folder."""
        path = self.path.relative_to(folder).as_posix()
        return {"path": path, "name": self.name, "kind": self.kind, "headers": dict(self.headers)}

    @classmethod
    def from_dict(cls, known: Mapping[str, Any], folder: Path) -> Made:
        return cls(folder / known["path"], known["name"], known["kind"], known["headers"])


class FileAnswer(FileResponse):
    """A file of a workspace as the answer.

    Args:
        path: the file.
        name: what the client should call it.
        kind: its media type.
        workspace: where it lies, kept until the answer is sent or the client has gone.
        last: whether the workspace is then removed.
        content: of the file, where it was read beforehand; it is then sent whole, whatever range was asked for.
    """

    chunk_size = 1024 * 1024  # each is read in a thread: sixteen times fewer changes of thread than by default

    def __init__(
        self, path: Path, *, name: str, kind: str, workspace: Workspace, last: bool, content: bytes | None = None
    ) -> None:
        super().__init__(path, filename=name, media_type=kind)
        self._workspace, self._last, self._content = workspace, last, content
        if content is not None:
            self.headers["content-length"] = str(len(content))
            del self.headers["accept-ranges"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._workspace.in_use():
                if self._content is None:
                    await super().__call__(scope, receive, send)
                else:
                    await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                    await send({"type": "http.response.body", "body": self._content})
        finally:
            if self._last:
                self._workspace.remove()
