"""Does the work of a job that the line gave this worker: at most so many attempts, with its progress, until somebody cancels it.

An attempt that ends, in a result or an error, is the job's end. One that does not, because the process died, is counted in the
job's folder: after `attempts` of them the job has failed, and what looked like its fault in the end is said. A job that has seen
a process die is worked on alone, so that no other is blamed for it.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

from models.errors import ConvoyError, StoppedError
from services import access_log, tracing
from services.http import error_fields, request_id, status_of
from services.jobs.folders import About, JobFolder, JobFolders, Outcome
from services.jobs.line import GaveBackError
from services.pool import Job, lower_priority
from services.record import Record, at_hand
from services.uploads import Upload
from services.workspace import Janitor, Made, Workspace, disk_errors, remove_folder

log = logging.getLogger("convoy.jobs")

MakeWork = Callable[[Upload, Workspace], Callable[[Job], Made]]
"""The work that an upload asks for; raises what is wrong with the request."""

_LOOK_SECONDS = 0.5


class LostTaskError(ConvoyError):
    """An accepted task's files are gone from the folder of jobs."""

    code = "task_lost"


class AbandonedTaskError(ConvoyError):
    """The process that worked on a task died, too often."""

    code = "task_abandoned"


class Runner:
    """Works on jobs, one of each kind at a time.

    Args:
        folders: of the jobs.
        kinds: what makes the work of each kind.
        attempts: processes that one job may see die.
        canceled: asks the line whether a job is.
        nice: how far work stands back behind short calls.
    """

    def __init__(
        self,
        folders: JobFolders,
        kinds: Mapping[str, MakeWork],
        attempts: int,
        canceled: Callable[[str], bool],
        nice: int,
    ) -> None:
        self._folders, self._kinds, self._attempts, self._canceled = folders, kinds, attempts, canceled
        self._threads = ThreadPoolExecutor(
            max(len(kinds), 1), thread_name_prefix="job", initializer=lower_priority, initargs=(nice,)
        )
        self.janitor = Janitor()
        self._running: dict[str, Job] = {}
        self._changed = threading.Condition()
        self._turns = Turns()
        self._stopping = False

    def run(self, kind: str, job_id: str, about: About) -> Outcome:
        """The outcome of a job; called in a thread, which it keeps.

        Raises:
            GaveBackError: there is none: the job was cancelled, or this worker stops.
        """
        folder = self._folders.of(kind, job_id)
        if (outcome := folder.outcome()) is not None:  # done before, but the line was not told
            return outcome
        record = Record(str(about.get("request", "-")), {}, key=str(about.get("owner", "")))
        with self._counted(job_id) as job, at_hand(record):
            try:
                outcome = self._attempt(kind, job_id, about, folder, job)
            except GaveBackError:
                if not self._stopping:
                    folder.clear()
                    access_log.write_job(record, kind, "canceled")
                raise
        error = outcome.get("error")
        record.code = str(error["code"]) if error else ""
        access_log.write_job(record, kind, "failed" if error else "completed")
        return outcome

    def cancel(self, job_id: str) -> None:
        """Stop a job that runs here, at once; elsewhere its worker finds out."""
        with self._changed:
            if job_id in self._running:
                self._running[job_id].cancel()

    def at_work(self) -> frozenset[str]:
        """Ids of the jobs that run here."""
        with self._changed:
            return frozenset(self._running)

    def stop(self, seconds: float) -> None:
        """Give back what runs, to be begun again by the next worker; wait so long for it to let go."""
        with self._changed:
            self._stopping = True
            for job in self._running.values():
                job.cancel()
            self._changed.wait_for(lambda: not self._running, seconds)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.janitor.close()

    @contextlib.contextmanager
    def _counted(self, job_id: str) -> Iterator[Job]:
        job = Job()
        with self._changed:
            if self._stopping:
                raise GaveBackError
            self._running[job_id] = job
        try:
            yield job
        finally:
            with self._changed:
                del self._running[job_id]
                self._changed.notify_all()

    def _attempt(self, kind: str, job_id: str, about: About, folder: JobFolder, job: Job) -> Outcome:
        died = folder.attempts()
        if died >= self._attempts:
            return self._concluded(folder, _own(_abandoned(died)))
        if not folder.upload.exists():
            lost = LostTaskError("the task's files are gone from the folder of jobs", fix="Submit it again.")
            return self._concluded(folder, _own(lost))
        with self._turns.taken(alone=died > 0, job=job):
            try:
                with disk_errors(), folder.attempt() as place:
                    folder.set_attempts(died + 1)
                    made = self._worked(kind, job_id, about, folder, place, job)
                    outcome = {"completed_at": _now(), "made": made.as_dict(folder.path)}
                    folder.conclude(outcome)
                    return outcome
            except Exception as error:  # noqa: BLE001 (whatever it is, it is the job's outcome)
                if job.cancelled():
                    with contextlib.suppress(OSError):
                        folder.set_attempts(died)
                    raise GaveBackError from None
                return self._concluded(folder, _failure(error, about))

    def _worked(self, kind: str, job_id: str, about: About, folder: JobFolder, place: Path, job: Job) -> Made:
        """The work itself, in a thread of its own; this one looks whether it is still wanted, and tells how far it is."""
        upload = Upload(folder.upload, str(about.get("name", "")), dict(about.get("fields", {})))

        def work() -> Made:
            request_id.set(str(about.get("request", "-")))
            job.started = True
            workspace = Workspace(place, remove_folder)  # what is left in it when this returns is kept
            with tracing.span(f"job {kind}"):
                return self._kinds[kind](upload, workspace)(job)

        future = self._threads.submit(contextvars.copy_context().run, work)
        told = 0.0
        while not wait([future], _LOOK_SECONDS).done:
            if self._no_longer_wanted(job_id):
                job.cancel()
            if job.progress != told:
                told = job.progress
                folder.set_progress(told)
        made = future.result()
        if job.cancelled() and not self._stopping:
            raise StoppedError("the job was cancelled")
        return made

    def _no_longer_wanted(self, job_id: str) -> bool:
        try:
            return self._canceled(job_id)
        except Exception:  # noqa: BLE001 (the line does not answer; the work can go on without)
            return False

    def _concluded(self, folder: JobFolder, outcome: Outcome) -> Outcome:
        try:
            folder.conclude(outcome)
        except OSError as error:  # the line can still be told
            log.warning("job %s: its outcome could not be written to its folder: %s", folder.path.name, error)
        return outcome


class Turns:
    """Who may work: several at once, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._working, self._alone = 0, False

    @contextlib.contextmanager
    def taken(self, *, alone: bool, job: Job) -> Iterator[None]:
        """Wait for the turn; GaveBackError where the job is cancelled meanwhile."""
        with self._changed:
            while self._alone or (alone and self._working):
                if job.cancelled():
                    raise GaveBackError
                self._changed.wait(_LOOK_SECONDS)
            self._working, self._alone = self._working + 1, alone
        try:
            yield
        finally:
            with self._changed:
                self._working, self._alone = self._working - 1, False
                self._changed.notify_all()


def _failure(error: Exception, about: About) -> Outcome:
    status = status_of(error)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("task submitted by request %s failed", about.get("request", "-"), exc_info=error)
    return _error(status, **error_fields(error))


def _error(status: int, code: str, message: str) -> Outcome:
    return {"completed_at": _now(), "error": {"status": int(status), "code": code, "message": message}}


def _own(error: ConvoyError) -> Outcome:
    return _error(error.status, error.code, error.message)


def _abandoned(times: int) -> AbandonedTaskError:
    problem = f"the task was given up: {times} times the process that worked on it ended without a word"
    fix = "Its file may be the cause, or memory that ran out; the service's log says when."
    return AbandonedTaskError(problem, fix=fix)


def _now() -> str:
    return datetime.now(UTC).isoformat()
