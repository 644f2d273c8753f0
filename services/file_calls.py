"""What calls have in common that take a file and give one back: upload to disk, work from file to file, answer from disk, tasks.

A file goes to disk as it arrives, is worked on in a thread, and the answer is sent from disk: memory holds pieces only. A client
who hangs up stops the work, and its files are removed. Only a task goes on by itself (`services.tasks`).
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from starlette.requests import Request
from starlette.responses import Response

from models.errors import InputError
from services.jobs.process import shared_jobs
from services.pool import Job, Pool
from services.settings import Settings
from services.tasks import Tasks
from services.uploads import Upload, parameters, receive
from services.workspace import Made, Workspace, Workspaces, disk_errors

_LONGEST_NAME = 80


class FileCalls(ABC):
    """Everything behind such endpoints but the work itself.

    Args:
        kind: of the work; its tasks and threads are called so.
        field: of the form that holds the file.
        kinds: media types, or their beginnings, of bare bodies.
        settings: of the service.
        at_once: calls that wait for their answer, and are worked on at a time.
        waiting: how many more may wait.
    """

    def __init__(self, kind: str, field: str, kinds: tuple[str, ...], settings: Settings, *, at_once: int, waiting: int) -> None:
        self._field, self._kinds, self._settings = field, kinds, settings
        self._pool = Pool(kind, at_once, waiting, settings.nice)
        self._workspaces = Workspaces(settings.temporary)
        # Tasks have a line of their own: who waits for an answer never waits behind somebody's night of files.
        self._jobs = shared_jobs(settings)
        self._jobs.kinds[kind] = self.work
        self.tasks = Tasks(self._jobs, kind, settings.max_tasks, settings.task_seconds)

    @abstractmethod
    def require_bundle(self) -> None:
        """Raise UnavailableError where there is nothing to work with."""

    @abstractmethod
    def work(self, upload: Upload, workspace: Workspace) -> Callable[[Job], Made]:
        """The work that an upload asks for, to be run in a thread; InputError where its fields are wrong.

        It makes its file in the workspace, and leaves the upload as it is.
        """

    def start(self) -> None:
        """Begin to work on tasks, those of before a restart too; in the background."""
        self._jobs.start()

    async def answer(self, request: Request) -> Response:
        """Do the work of a request."""
        self._pool.check_room()
        self.require_bundle()
        with self._workspaces.new().removed_on_error() as workspace:
            upload = await self._receive(request, workspace)
            work = self.work(upload, workspace)
            made = await self._pool.run(functools.partial(_and_unlink, work, upload.path))
        return made.answer(workspace, last=True)

    async def submit(self, request: Request) -> dict[str, object]:
        """Accept the work of a request as a task."""
        self.require_bundle()
        with (await self.tasks.admit()).removed_on_error() as workspace:
            upload = await self._receive(request, workspace)
            self.work(upload, workspace)  # what is wrong with the fields is said now
            return await self.tasks.submit(upload, workspace)

    async def result(self, task_id: str) -> Response:
        """What a task made."""
        made, workspace = await self.tasks.result(task_id)
        return made.answer(workspace, last=False)

    async def close(self) -> None:
        await self._pool.close()
        await self._jobs.close()
        self._workspaces.close()

    async def _receive(self, request: Request, workspace: Workspace) -> Upload:
        patience = self._settings.timeout_seconds
        return await receive(request, self._field, self._kinds, workspace.path / "upload", patience)


def _and_unlink(work: Callable[[Job], Made], upload: Path, job: Job) -> Made:
    """Room on the disk is freed as soon as the answer is made; where that is small, all of it goes in a moment."""
    made = work(job)
    with disk_errors():
        made = made.read()
    if made.content is None:
        upload.unlink(missing_ok=True)
    return made


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
