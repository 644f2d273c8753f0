"""Work that outlives its request: submit, ask, fetch, cancel.

The routes, the states and the field ``task_id`` are those of ``@bentoml.task``; what is behind them is not. Run locally, BentoML
1.4.39 keeps the bodies and results whole in memory and in SQLite, runs a task as the tail of the request that submitted it (a
client who hangs up, as most do, ends it), and answers 400 to every cancel.

Here files stay on disk, in the task's workspace. The store is this process's own: a restart forgets its tasks, and another
worker does not know them.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Generic, TypeVar

from models.errors import InputError
from services.batching import BusyError
from services.http import error_fields, request_id, status_of
from services.pool import Job, Pool
from services.workspace import Workspace

log = logging.getLogger("convoy.tasks")

Result = TypeVar("Result")

_RETRY_SECONDS = 60


class UnknownTaskError(InputError):
    """No such task: its id is wrong, or its time is over."""

    code, status = "task_unknown", 404


class UnfinishedTaskError(InputError):
    """The result is not there yet."""

    code, status = "task_unfinished", 409


class CanceledTaskError(InputError):
    """There will be no result: somebody cancelled the task."""

    code, status = "task_canceled", 410


@dataclass(eq=False)
class Task(Generic[Result]):
    """One accepted piece of work."""

    workspace: Workspace
    id: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    job: Job = field(default_factory=Job)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    completed_at: datetime | None = None
    result: Result | None = None
    error: Exception | None = None
    runner: asyncio.Task[Result] | None = None

    @property
    def status(self) -> str:
        if self.job.cancelled():
            return "canceled"
        if self.completed_at:
            return "failed" if self.error else "completed"
        return "in_progress" if self.job.started else "pending"

    def describe(self) -> dict[str, object]:
        """The answer to a question for its status."""
        answer: dict[str, object] = {
            "task_id": self.id,
            "status": self.status,
            "progress": round(self.job.progress, 3),
            "created_at": self.created_at.isoformat(),
            "completed_at": self.completed_at.isoformat() if self.completed_at else None,
        }
        return answer | ({"error": error_fields(self.error)} if self.error else {})


class Tasks(Generic[Result]):
    """The tasks of one kind of work.

    Args:
        pool: what works on them; it must take as many as there may be.
        most: tasks that wait, run or are kept for their result.
        keep_seconds: how long a finished one is kept.
    """

    def __init__(self, pool: Pool, most: int, keep_seconds: float) -> None:
        self._pool, self._most, self._keep = pool, most, keep_seconds
        self._tasks: dict[str, Task[Result]] = {}

    def check_room(self) -> None:
        """To be asked before an upload is read.

        Raises:
            BusyError: too many tasks are kept.
            UnavailableError: the service is stopping.
        """
        self._pool.check_room()
        if len(self._tasks) >= self._most:
            raise BusyError("too many tasks", expected=f"at most {self._most}", retry_after=_RETRY_SECONDS)

    def submit(self, work: Callable[[Job], Result], workspace: Workspace) -> Task[Result]:
        """Accept `work`; the workspace is the task's from now on.

        Raises:
            BusyError, UnavailableError: as `check_room`; the workspace is still the caller's.
        """
        self.check_room()
        task = Task[Result](workspace)
        self._tasks[task.id] = task
        task.runner = asyncio.get_running_loop().create_task(self._pool.run(work, task.job))
        task.runner.add_done_callback(functools.partial(self._conclude, task))
        return task

    def find(self, task_id: str) -> Task[Result]:
        """The task.

        Raises:
            UnknownTaskError: there is none.
        """
        if (task := self._tasks.get(task_id)) is None:
            fix = f"Results are kept for {self._keep:g} s."
            raise UnknownTaskError("no such task", where="task_id", expected="the id that submitting answered", fix=fix)
        return task

    def result(self, task_id: str) -> tuple[Result, Workspace]:
        """What a completed task made, and where it lies.

        Raises:
            UnknownTaskError: there is no such task.
            UnfinishedTaskError: it waits or runs.
            CanceledTaskError: it was cancelled.
            Exception: it failed with this.
        """
        task = self.find(task_id)
        if task.job.cancelled():
            raise CanceledTaskError("the task was cancelled", where="task_id", fix="Submit it again.")
        if task.error is not None:
            raise task.error.with_traceback(None)
        if task.result is None:
            expected = "the status completed"
            raise UnfinishedTaskError("the task is not finished", expected=expected, got=task.status, fix="Ask again later.")
        return task.result, task.workspace

    def cancel(self, task_id: str) -> Task[Result]:
        """Stop a task that waits or runs; a finished one is left as it is.

        Raises:
            UnknownTaskError: there is none.
        """
        task = self.find(task_id)
        if task.completed_at is None and task.runner is not None:
            task.job.cancel()
            task.runner.cancel()
        return task

    async def close(self) -> None:
        """Cancel what is not finished, and forget everything."""
        await self._pool.close()
        runners = [task.runner for task in self._tasks.values() if task.runner is not None]
        await asyncio.gather(*runners, return_exceptions=True)
        for task_id in list(self._tasks):
            self._forget(task_id)

    def _conclude(self, task: Task[Result], runner: asyncio.Task[Result]) -> None:
        task.completed_at = datetime.now(UTC)
        if runner.cancelled():
            task.job.cancel()
        elif isinstance(error := runner.exception(), Exception):
            task.error = error
            if status_of(error) == HTTPStatus.INTERNAL_SERVER_ERROR:
                log.error("task submitted by request %s failed", request_id.get(), exc_info=error)
        else:
            task.result, task.job.progress = runner.result(), 1.0
        if task.result is None:
            task.workspace.remove()
        asyncio.get_running_loop().call_later(self._keep, self._forget, task.id)

    def _forget(self, task_id: str) -> None:
        if (task := self._tasks.pop(task_id, None)) is not None:
            task.workspace.remove()
