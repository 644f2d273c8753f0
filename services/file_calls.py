"""What calls have in common that take a file and give one back: upload to disk, work from file to file, answer from disk, tasks.

A file goes to disk as it arrives, is worked on in a thread, and the answer is sent from disk: memory holds pieces only. A client
who hangs up stops the work, and its files are removed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from starlette.requests import Request
from starlette.responses import Response

from models.errors import InputError
from services.pool import Job, Pool
from services.settings import Settings
from services.tasks import Task, Tasks
from services.uploads import Upload, parameters, receive
from services.workspace import FileAnswer, Workspace, Workspaces

_LONGEST_NAME = 80


@dataclass(frozen=True)
class Made:
    """The file that answers a call.

    Attributes:
        path: in its workspace.
        name: what the client should call it.
        kind: its media type.
        headers: of the answer.
    """

    path: Path
    name: str
    kind: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def answer(self, workspace: Workspace, *, last: bool) -> FileAnswer:
        """The file, to be sent; see `FileAnswer`."""
        answer = FileAnswer(self.path, name=self.name, kind=self.kind, workspace=workspace, last=last)
        answer.headers.update(self.headers)
        return answer


class FileCalls(ABC):
    """Everything behind such endpoints but the work itself.

    Args:
        name: of the threads, and in messages.
        field: of the form that holds the file.
        kinds: media types, or their beginnings, of bare bodies.
        settings: of the service.
        pool: who works on calls that wait for their answer.
    """

    def __init__(self, field: str, kinds: tuple[str, ...], settings: Settings, pool: Pool) -> None:
        self._field, self._kinds, self._settings, self._pool = field, kinds, settings, pool
        self._workspaces = Workspaces(settings.temporary)
        # A line of their own: who waits for an answer never waits behind somebody's night of files.
        self.tasks = Tasks[Made](Pool("tasks", 1, settings.max_tasks), settings.max_tasks, settings.task_seconds)

    @abstractmethod
    def require_bundle(self) -> None:
        """Raise UnavailableError where there is nothing to work with."""

    @abstractmethod
    def work(self, upload: Upload, workspace: Workspace) -> Callable[[Job], Made]:
        """The work that an upload asks for, to be run in a thread; InputError where its fields are wrong."""

    async def answer(self, request: Request) -> Response:
        """Do the work of a request."""
        work, workspace = await self._read(request, self._pool.check_room)
        try:
            made = await self._pool.run(work)
        except BaseException:
            workspace.remove()
            raise
        return made.answer(workspace, last=True)

    async def submit(self, request: Request) -> Task[Made]:
        """Accept the work of a request as a task."""
        work, workspace = await self._read(request, self.tasks.check_room)
        try:
            return self.tasks.submit(work, workspace)
        except BaseException:
            workspace.remove()
            raise

    def result(self, task_id: str) -> Response:
        """What a task made."""
        made, workspace = self.tasks.result(task_id)
        return made.answer(workspace, last=False)

    async def close(self) -> None:
        await self._pool.close()
        await self.tasks.close()
        self._workspaces.close()

    async def _read(self, request: Request, check_room: Callable[[], None]) -> tuple[Callable[[Job], Made], Workspace]:
        """The work that a request asks for, and the workspace where its file lies."""
        check_room()
        self.require_bundle()
        workspace = self._workspaces.new()
        try:
            patience = self._settings.timeout_seconds
            upload = await receive(request, self._field, self._kinds, workspace.path / "upload", patience)
            return self.work(upload, workspace), workspace
        except BaseException:
            workspace.remove()
            raise


def display_stem(given: str, endings: tuple[str, ...] = ()) -> str:
    """What an answer's name begins with, after what the client calls its file; empty where nothing is left of that."""
    name = PurePosixPath(given.replace("\\", "/")).name
    ending = next((ending for ending in endings if name.lower().endswith(ending)), PurePosixPath(name).suffix)
    stem = name[: len(name) - len(ending)]
    clean = "".join(sign for sign in stem if sign.isprintable() and sign not in '/\\:*?"<>|').strip(" .")
    return clean[:_LONGEST_NAME]


def task_id(request: Request) -> str:
    """The query's ``task_id``; InputError where it is missing, or given twice."""
    if not (found := parameters(request).get("task_id", "")):
        raise InputError("the parameter is missing", where="task_id", expected="the id that submitting answered")
    return found
