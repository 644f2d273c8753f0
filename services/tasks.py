"""Work that outlives its request: submit, ask, fetch, cancel.

The routes, the states and the field ``task_id`` are those of ``@bentoml.task``; what is behind them is not. Run locally, BentoML
1.4.39 keeps the bodies and results whole in memory and in SQLite, runs a task as the tail of the request that submitted it (a
client who hangs up, as most do, ends it), forgets what ran when the process ends, and answers 400 to every cancel.

Here a task is a job of `services.jobs`: its files lie on disk, any worker answers for it, and what was accepted is done, or fails
with the reason, whatever becomes of the process. It belongs to the API key that submitted it; for all others there is none.
"""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from typing import Any

from models.errors import InputError, UnavailableError
from services.batching import BusyError
from services.http import error_fields, request_id
from services.identity import caller
from services.jobs.folders import is_id
from services.jobs.line import Row
from services.jobs.process import Jobs
from services.uploads import Upload
from services.workspace import Made, Workspace

_RETRY_SECONDS = 60
_OURS = RuntimeError("a bug of ours")


class UnknownTaskError(InputError):
    """No such task: its id is wrong, or its time is over."""

    code, status = "task_unknown", 404


class UnfinishedTaskError(InputError):
    """The result is not there yet."""

    code, status = "task_unfinished", 409


class CanceledTaskError(InputError):
    """There will be no result: somebody cancelled the task."""

    code, status = "task_canceled", 410


class FailedTaskError(InputError):
    """What a task failed with, told again: the code, the status and the message that the call itself would have answered."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error["message"]))
        self.code, self.status = str(error["code"]), int(error["status"])


class Tasks:
    """The tasks of one kind of work.

    Args:
        jobs: of this process; the kind is registered there.
        kind: a name, as the routes begin with.
        most: tasks that wait, run or are kept for their result.
        keep_seconds: how long a finished one is kept.
    """

    def __init__(self, jobs: Jobs, kind: str, most: int, keep_seconds: float) -> None:
        self._jobs, self._kind, self._most, self._keep = jobs, kind, most, keep_seconds
        self._accepting = threading.Lock()

    async def admit(self) -> Workspace:
        """A folder for the upload of a task, where there is room for one more.

        Raises:
            BusyError: too many tasks are kept.
            UnavailableError: the service is starting or stopping, or the disk is full.
        """
        return await self._jobs.ask(self._admit)

    async def submit(self, upload: Upload, workspace: Workspace) -> dict[str, object]:
        """Accept the upload in that folder; what `describe` says of it, when it is safe on the disk.

        Raises:
            BusyError, UnavailableError: as `admit`; the folder is still the caller's, and nothing was accepted.
        """
        about = {
            "name": upload.name,
            "fields": upload.fields,
            "owner": caller.get(),
            "request": request_id.get(),
            "created_at": datetime.now(UTC).isoformat(),
        }
        accepting = asyncio.ensure_future(self._jobs.ask(self._accept, workspace, about))
        try:
            row, place = await asyncio.shield(accepting)
        except asyncio.CancelledError:
            # The client has gone and never heard the id: nobody could ever ask for the result.
            accepting.add_done_callback(self._undo)
            raise
        return self._described(row, place)

    async def describe(self, task_id: str) -> dict[str, object]:
        """The answer to a question for a task's status.

        Raises:
            UnknownTaskError: there is none, or it is another's.
        """
        return await self._jobs.ask(self._describe, self._checked(task_id), caller.get())

    async def result(self, task_id: str) -> tuple[Made, Workspace]:
        """What a completed task made, and where it lies.

        Raises:
            UnknownTaskError: as `describe`.
            UnfinishedTaskError: it waits or runs.
            CanceledTaskError: it was cancelled.
            FailedTaskError: it failed with this.
        """
        return await self._jobs.ask(self._result, self._checked(task_id), caller.get())

    async def cancel(self, task_id: str) -> dict[str, object]:
        """Stop a task that waits or runs, and describe it; a finished one is left as it is.

        Raises:
            UnknownTaskError: as `describe`.
        """
        return await self._jobs.ask(self._cancel, self._checked(task_id), caller.get())

    # ---- in threads -------------------------------------------------------------------------------------------------------

    def _admit(self) -> Workspace:
        if self._full():
            self._jobs.purge()  # of what is over its time since the last look
        self._check_room()
        return self._jobs.arrival()

    def _accept(self, workspace: Workspace, about: dict[str, Any]) -> tuple[Row, int]:
        with self._accepting:
            self._check_room()  # others came while this upload arrived
            row = self._jobs.accept(self._kind, workspace, about)
        return row, self._jobs.place(row)

    def _full(self) -> bool:
        return self._jobs.kept(self._kind) >= self._most

    def _check_room(self) -> None:
        if self._full():
            raise BusyError("too many tasks", expected=f"at most {self._most}", retry_after=_RETRY_SECONDS)

    def _undo(self, accepting: asyncio.Future[tuple[Row, int]]) -> None:
        if not accepting.cancelled() and accepting.exception() is None:
            self._jobs.later(self._jobs.undo, accepting.result()[0])

    def _describe(self, task_id: str, owner: str) -> dict[str, object]:
        row = self._find(task_id, owner)
        return self._described(row, self._jobs.place(row) if row.state == "pending" else 0)

    def _cancel(self, task_id: str, owner: str) -> dict[str, object]:
        row = self._find(task_id, owner)
        if row.state in ("pending", "in_progress"):
            self._jobs.cancel(row)
        return self._describe(task_id, owner)

    def _result(self, task_id: str, owner: str) -> tuple[Made, Workspace]:
        row = self._find(task_id, owner)
        if row.state == "canceled":
            raise CanceledTaskError("the task was cancelled", where="task_id", fix="Submit it again.")
        if row.state == "failed":
            raise FailedTaskError(_error(row))
        if row.state != "completed":
            expected = "the status completed"
            raise UnfinishedTaskError("the task is not finished", expected=expected, got=row.state, fix="Ask again later.")
        folder = self._jobs.folder(row).path
        made = Made.from_dict(row.outcome["made"], folder)
        if not made.path.is_file():
            raise UnavailableError("the result is gone from the folder of jobs", fix="Submit the task again.")
        return made, self._jobs.workspace(row)

    def _find(self, task_id: str, owner: str) -> Row:
        row = self._jobs.find(self._kind, task_id)
        if row is None or row.owner != owner:
            raise self._unknown()
        return row

    def _checked(self, task_id: str) -> str:
        if not is_id(task_id):
            raise self._unknown()
        return task_id

    def _unknown(self) -> UnknownTaskError:
        fix = f"Results are kept for {self._keep:g} s."
        return UnknownTaskError("no such task", where="task_id", expected="the id that submitting answered", fix=fix)

    def _described(self, row: Row, place: int) -> dict[str, object]:
        running = row.state == "in_progress"
        answer: dict[str, object] = {
            "task_id": row.id,
            "status": row.state,
            "progress": self._jobs.folder(row).progress() if running else float(row.state == "completed"),
            "position": place or None,
            "created_at": row.about.get("created_at") or _iso(row.created),
            "completed_at": None if row.ended is None else _iso(row.ended),
        }
        if row.state == "failed":
            answer["error"] = {name: _error(row)[name] for name in ("code", "message")}
        return answer


def _error(row: Row) -> dict[str, Any]:
    """What a failed task failed with; one that left no word is our own fault."""
    return row.outcome.get("error") or {"status": 500, **error_fields(_OURS)}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
