"""The line of jobs: who waits, who runs where, what became of them. DBOS Transact keeps it, in SQLite or PostgreSQL.

Each kind of job is a DBOS queue and a workflow of one step. A worker takes one job of a kind at a time, first come, first served.
DBOS hands each to exactly one worker, and records an outcome only for the worker that still owns the job.

DBOS is imported when the line opens: it takes half a second. Nothing leaves the machine but for the database: there is no
"conductor", and its values are JSON, not the pickles that it would use.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from services.jobs.folders import About, Outcome

if TYPE_CHECKING:
    from dbos import WorkflowStatus

log = logging.getLogger("convoy.jobs")

State = Literal["pending", "in_progress", "completed", "failed", "canceled"]
Work = Callable[[str, str, About], Outcome]
"""Does the job of this kind, id and facts."""

DONE: tuple[State, ...] = ("completed", "failed", "canceled")
_STATES: dict[str, State] = {
    "ENQUEUED": "pending",
    "DELAYED": "pending",
    "PENDING": "in_progress",
    "SUCCESS": "completed",
    "ERROR": "failed",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
    "CANCELLED": "canceled",
}
_ENDED = ["SUCCESS", "ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED", "CANCELLED"]
_VERSION = "1"  # of what workers tell each other through the line; it says who may take whose jobs
_POLL_SECONDS = 0.5


class GaveBackError(BaseException):
    """Raised by work that ends without an outcome: it was cancelled, or the worker stops and another will begin it again.

    Not an `Exception`, which DBOS would record as the job's end.
    """


@dataclass(frozen=True)
class Row:
    """What the line knows of a job.

    Attributes:
        worker: who took it last.
        ended: when it was over, in seconds since 1970.
    """

    id: str
    kind: str
    owner: str
    state: State
    about: About
    outcome: Outcome
    worker: str
    created: float
    ended: float | None


class Line:
    """The line, once it is `open`; every call may wait for the database.

    Args:
        database: address of a PostgreSQL database; empty for SQLite in `folder`.
        folder: of the jobs.
    """

    def __init__(self, database: str, folder: Path) -> None:
        self._database = database
        self._file = folder / "jobs.sqlite"

    def open(self, kinds: Sequence[str], worker: str, work: Work) -> None:
        """Begin to take jobs of these kinds, signed `worker`; what a dead process left under that name is taken up again.

        Raises:
            Exception: the database cannot be reached or used; the line is closed, and opening may be tried again.
        """
        from dbos import DBOS

        if not self._database:
            set_aside_if_damaged(self._file)
        _calm_logger()
        DBOS(config=self._config(worker))
        try:
            for kind in kinds:
                _registered(kind)
                _works[kind] = functools.partial(work, kind)
            DBOS.listen_queues(kinds)
            DBOS.launch()
            for kind in kinds:
                DBOS.register_queue(kind, worker_concurrency=1, polling_interval_sec=_POLL_SECONDS)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Take no more jobs and let go of the database. Work that is running has no outcome: it is taken up again later."""
        from dbos import DBOS

        DBOS.destroy()
        _works.clear()

    def join(self, kind: str, job_id: str, about: About) -> None:
        """Put a job at the end of the line, through to the disk. One that is there already stays where it is."""
        from dbos import DBOS

        DBOS.enqueue_workflow_with_options(
            {
                "workflow_name": kind,
                "queue_name": kind,
                "workflow_id": job_id,
                "app_version": _VERSION,
                "authenticated_user": str(about.get("owner", "")),
            },
            about,
        )

    def find(self, job_id: str) -> Row | None:
        from dbos import DBOS

        found = DBOS.list_workflows(workflow_ids=[job_id])
        return _row(found[0]) if found else None

    def place(self, row: Row) -> int:
        """Of a job that waits: 1 is next."""
        from dbos import DBOS

        waiting = DBOS.list_workflows(queue_name=row.kind, status="ENQUEUED", load_input=False, load_output=False)
        ids = [each.workflow_id for each in sorted(waiting, key=lambda each: each.created_at or 0)]
        return ids.index(row.id) + 1 if row.id in ids else 1

    def canceled(self, job_id: str) -> bool:
        """Whether somebody cancelled a job that runs, or its row is gone."""
        from dbos import DBOS

        found = DBOS.list_workflows(workflow_ids=[job_id], load_input=False, load_output=False)
        return not found or found[0].status == "CANCELLED"

    def cancel(self, job_id: str) -> None:
        """End a job that waits or runs; its worker looks every moment whether it still should."""
        from dbos import DBOS

        DBOS.cancel_workflow(job_id)

    def missing(self, job_ids: Sequence[str]) -> set[str]:
        """Those that the line does not know."""
        from dbos import DBOS

        if not job_ids:
            return set()
        known = DBOS.list_workflows(workflow_ids=list(job_ids), load_input=False, load_output=False)
        return set(job_ids) - {each.workflow_id for each in known}

    def running(self, worker: str | None = None) -> list[Row]:
        """Jobs that a worker, or anybody, has taken and not ended."""
        from dbos import DBOS

        found = DBOS.list_workflows(status="PENDING", executor_id=worker, load_input=False, load_output=False)
        return [_row(each) for each in found]

    def counts(self) -> dict[str, int]:
        """How many jobs there are in each state, of all kinds."""
        from dbos import DBOS

        states = Counter(_row(each).state for each in DBOS.list_workflows(load_input=False))
        return {state: states[state] for state in _STATES.values()}

    def return_to_line(self, row: Row) -> None:
        """Let a job be taken again whose worker is gone; it goes back to its old place."""
        from dbos import DBOS

        DBOS.resume_workflow(row.id, queue_name=row.kind)

    def ended(self, kind: str) -> list[Row]:
        """Jobs that are over, and kept."""
        from dbos import DBOS

        return [_row(each) for each in DBOS.list_workflows(name=kind, status=_ENDED, load_input=False)]

    def forget(self, job_id: str) -> None:
        from dbos import DBOS

        DBOS.delete_workflow(job_id)

    def _config(self, worker: str) -> Any:
        from dbos import DBOSPortableJSONSerializer

        return {
            "name": "convoy",
            "system_database_url": self._database or f"sqlite:///{self._file}",
            "executor_id": worker,
            "application_version": _VERSION,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
            "scheduler_polling_interval_sec": 3600.0,  # there are no schedules
        }


def set_aside_if_damaged(file: Path) -> bool:
    """Rename an SQLite file that is none any more; the line is then made anew, from the jobs' folders."""
    try:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            if connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
                return False
    except sqlite3.DatabaseError as error:
        if type(error) is not sqlite3.DatabaseError:  # locked, no room: a trouble, but no damage
            raise
    aside = file.with_name(f"{file.name}.damaged-{time.time_ns()}")
    log.error("the database of jobs is damaged: kept as %s, and made anew from the jobs' folders", aside.name)
    for ending in ("", "-journal", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            file.with_name(file.name + ending).rename(aside.with_name(aside.name + ending))
    return True


_works: dict[str, Callable[[str, About], Outcome]] = {}


@functools.cache
def _registered(kind: str) -> None:
    """Tell DBOS of a kind of work, once a process."""
    from dbos import DBOS

    def work(about: About) -> Outcome:
        # In a context of its own: what asks the line from inside a workflow would be recorded as one of its steps.
        return contextvars.Context().run(_works[kind], str(DBOS.workflow_id), about)

    work.__qualname__ = kind
    DBOS.workflow(name=kind, max_recovery_attempts=None)(work)


def _row(status: WorkflowStatus) -> Row:
    arguments = status.input["args"] if isinstance(status.input, dict) else ()
    about = arguments[0] if arguments and isinstance(arguments[0], dict) else {}
    outcome = status.output if isinstance(status.output, dict) else {}
    state = _STATES[status.status]
    ended = status.completed_at / 1000 if status.completed_at else None  # whole seconds, in SQLite
    return Row(
        id=status.workflow_id,
        kind=status.name,
        owner=status.authenticated_user or "",
        state="failed" if state == "completed" and "error" in outcome else state,
        about=about,
        outcome=outcome,
        worker=status.executor_id or "",
        created=(status.created_at or 0) / 1000,
        ended=datetime.fromisoformat(outcome["completed_at"]).timestamp() if outcome else ended,
    )


@functools.cache
def _calm_logger() -> None:
    """DBOS's words go where ours go, not to a handler of its own."""
    logger = logging.getLogger("dbos")
    logger.addHandler(logging.NullHandler())
    logger.addFilter(_worth_saying)


def _worth_saying(record: logging.LogRecord) -> bool:
    """Not what DBOS says of a job that was cancelled in its last moment: nothing is wrong then."""
    cause = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
    return "Waiting for the recorded outcome" not in record.getMessage() and cause != "DBOSAwaitedWorkflowCancelledError"
