"""What a process has of jobs: one line, one slot, one runner, for all kinds together; and what must be looked after now and then.

Beside its own work a worker looks after the rest: jobs of workers that died go back to the line, results are removed when their
time is over, and a job whose row was lost with a damaged database gets a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from filelock import FileLock

from models.errors import UnavailableError
from services import metrics
from services.jobs.folders import About, JobFolder, JobFolders
from services.jobs.line import DONE, Line, Row
from services.jobs.runner import MakeWork, Runner
from services.jobs.slots import Slots
from services.settings import Settings
from services.workspace import Workspace, Workspaces, disk_errors

log = logging.getLogger("convoy.jobs")

Given = ParamSpec("Given")
Answer = TypeVar("Answer")

_START_SECONDS, _ANSWER_SECONDS, _STOP_SECONDS = 20.0, 20.0, 20.0
_UPKEEP_SECONDS = 5.0
_RETRY_SECONDS = (1.0, 60.0)  # first and longest pause before the line is opened again


class Jobs:
    """All jobs of one process.

    Args:
        settings: of the services.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folders = JobFolders(settings.jobs)
        self.kinds: dict[str, MakeWork] = {}
        self._line = Line(settings.jobs_database, settings.jobs)
        self._slots = Slots(settings.jobs / "workers")
        self._runner: Runner | None = None
        self._arrivals: Workspaces | None = None
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="jobs")  # of their own: a database may fall silent
        self._open, self._closing = threading.Event(), threading.Event()
        self._keeper: threading.Thread | None = None
        self._clock = SteadyClock()
        self._suspects: frozenset[str] = frozenset()

    def start(self) -> None:
        """Open the line, in the background; does nothing the second time."""
        if self._keeper is None and not self._closing.is_set():
            self._keeper = threading.Thread(target=self._keep, name="jobs", daemon=True)
            self._keeper.start()

    async def close(self) -> None:
        """Give back what runs, and let go of everything; nothing that was accepted is lost."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._keeper is not None:
            await asyncio.to_thread(self._keeper.join)
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        if _shared.get(self.settings) is self:
            del _shared[self.settings]

    async def ask(self, function: Callable[Given, Answer], *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        """Run in a thread what may wait for the line or the disk.

        Raises:
            UnavailableError: the line is not open yet, or does not answer, or this worker is stopping.
        """
        self.check_open()
        call = functools.partial(self._when_open, functools.partial(function, *args, **kwargs))
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except TimeoutError:
            raise UnavailableError("the database of jobs does not answer", fix="Try again later.") from None

    def later(self, function: Callable[Given, object], *args: Given.args, **kwargs: Given.kwargs) -> None:
        """Run in a thread what nobody waits for."""
        with contextlib.suppress(RuntimeError):  # closed
            self._threads.submit(function, *args, **kwargs)

    def check_open(self) -> None:
        """UnavailableError where this worker is stopping."""
        if self._closing.is_set() or self._keeper is None:
            raise UnavailableError("the service is stopping", where="jobs", fix="Send the request again in a moment.")

    # ---- what the calls need; all of it in threads --------------------------------------------------------------------

    def arrival(self) -> Workspace:
        """A folder for an upload that is to become a job; on the disk of the jobs, so that it need not be copied."""
        if self._arrivals is None:
            raise UnavailableError("the folder of jobs is not open", fix="Try again in a moment.")
        return self._arrivals.new()

    def accept(self, kind: str, arrived: Workspace, about: About) -> Row:
        """Make an upload a job; when this returns, it is on the disk, and in the line.

        Raises:
            UnavailableError: the disk is full, or the database cannot be written; nothing was accepted.
        """
        job_id = secrets.token_hex(16)
        try:
            with disk_errors():
                self.folders.accept(kind, job_id, arrived.path, about)
            with _line_errors():
                self._line.join(kind, job_id, about)
        except BaseException:
            self.folders.remove(kind, job_id)
            self.folders.sweep()
            raise
        return Row(job_id, kind, str(about.get("owner", "")), "pending", about, {}, "", time.time(), None)

    def find(self, kind: str, job_id: str) -> Row | None:
        with _line_errors():
            row = self._line.find(job_id)
        return row if row and row.kind == kind and not self._expired(row) else None

    def place(self, row: Row) -> int:
        with _line_errors():
            return self._line.place(row)

    def cancel(self, row: Row) -> None:
        """Stop a job that waits or runs, wherever that is."""
        with _line_errors():
            self._line.cancel(row.id)
        self._require_runner().cancel(row.id)
        if row.state == "pending":
            self.folder(row).clear()

    def undo(self, row: Row) -> None:
        """Forget a job whose client was gone before it could be told."""
        self.cancel(row)
        self._forget(row)

    def folder(self, row: Row) -> JobFolder:
        return self.folders.of(row.kind, row.id)

    def workspace(self, row: Row) -> Workspace:
        """A job's folder, to send a file of."""
        return Workspace(self.folder(row).path, self._require_runner().janitor.sweep)

    def kept(self, kind: str) -> int:
        """Jobs that wait, run, or are kept for their result."""
        return len(self.folders.known(kind))

    def purge(self) -> None:
        """Remove what is over its time, and the files of what was cancelled between two hands."""
        for row in itertools.chain(*map(self._line.ended, self.kinds)):
            if self._expired(row):
                self._forget(row)
            elif row.state == "canceled" and self._clock.age(row.ended or 0.0) > _UPKEEP_SECONDS:
                self.folder(row).clear()
        self.folders.sweep()

    # ---- the keeper's thread --------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        pause, longest = _RETRY_SECONDS
        while not self._closing.is_set() and not self._open.is_set():
            try:
                self._begin()
            except Exception as error:  # noqa: BLE001 (a database that is not there yet: the other calls are served meanwhile)
                log.warning("the folder or the database of jobs cannot be used, next try in %g s: %s", pause, error)
                self._end()
                self._closing.wait(pause)
                pause = min(2 * pause, longest)
        purged = 0.0
        while not self._closing.wait(_UPKEEP_SECONDS):
            with contextlib.suppress(Exception):  # a database that is away; the next round finds what this one did not
                self._mend()
                metrics.jobs(self._line.counts())
                if time.monotonic() - purged > min(max(self.settings.task_seconds / 4, _UPKEEP_SECONDS), 60.0):
                    self.purge()
                    purged = time.monotonic()
        self._end()

    def _begin(self) -> None:
        settings = self.settings
        self.folders.make()
        self._arrivals = self._arrivals or Workspaces(settings.jobs)
        self._runner = Runner(self.folders, self.kinds, settings.job_attempts, self._line.canceled, settings.nice)
        # One worker at a time: a database that is new, old or damaged is made right once.
        with FileLock(settings.jobs / "start.lock", timeout=_START_SECONDS):
            self._line.open(list(self.kinds), self._slots.take(), self._runner.run)
            self._restore()
        self.purge()
        metrics.jobs(self._line.counts())
        self._open.set()

    def _end(self) -> None:
        self._open.clear()
        if self._runner is not None:
            self._runner.stop(_STOP_SECONDS)
            self._line.close()
        self._slots.leave()
        if self._arrivals is not None and self._closing.is_set():
            self._arrivals.close()
        self._runner = None

    def _restore(self) -> None:
        """Give each job a place in the line that has a folder and none: the database was lost, or the process died between."""
        for kind in self.kinds:
            lost = [(self.folders.of(kind, job_id), job_id) for job_id in self._line.missing(self.folders.known(kind))]
            told = [(about, job_id) for folder, job_id in lost if (about := folder.about()) is not None]
            for about, job_id in sorted(told, key=lambda each: str(each[0].get("created_at"))):
                log.warning("job %s is put back into the line", job_id)
                self._line.join(kind, job_id, about)
            for job_id in {job_id for _, job_id in lost} - {job_id for _, job_id in told}:
                log.error("job %s has lost its description and is removed", job_id)
                self.folders.remove(kind, job_id)

    def _mend(self) -> None:
        """Give back the jobs of workers that died, and own ones that nobody works on: their outcome could not be written."""
        own = self._slots.name
        rows = self._line.running()
        for worker in {row.worker for row in rows} - {own}:
            with self._slots.if_dead(worker) as dead:
                for row in self._line.running(worker) if dead else []:
                    log.warning("job %s goes back into the line: %s is gone", row.id, worker)
                    self._line.return_to_line(row)
        idle = frozenset(row.id for row in rows if row.worker == own) - self._require_runner().at_work()
        for row in rows:
            if row.id in idle & self._suspects:  # twice in a row: it is not just being handed over
                self._line.return_to_line(row)
        self._suspects = idle

    # ---- small things ----------------------------------------------------------------------------------------------------

    def _when_open(self, function: Callable[[], Answer]) -> Answer:
        if not self._open.wait(_START_SECONDS / 2):
            raise UnavailableError("the line of jobs is not open", fix="Try again in a moment.")
        return function()

    def _require_runner(self) -> Runner:
        if self._runner is None:
            raise UnavailableError("the line of jobs is not open", fix="Try again in a moment.")
        return self._runner

    def _expired(self, row: Row) -> bool:
        kept = self.settings.task_seconds + (0 if row.outcome else 1)  # without an outcome its end is told in whole seconds
        return row.state in DONE and row.ended is not None and self._clock.age(row.ended) >= kept

    def _forget(self, row: Row) -> None:
        self.folders.remove(row.kind, row.id)
        self._line.forget(row.id)


class SteadyClock:
    """Says how old a moment is, and would rather say too little: by the clock, and by the clock without its later jumps."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def age(self, moment: float) -> float:
        """Seconds since `moment` (in seconds since 1970)."""
        return min(time.time(), time.monotonic() + self._offset) - moment


@contextlib.contextmanager
def _line_errors() -> Iterator[None]:
    """A database that cannot be read or written is our trouble, and one that may pass (503)."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        log.exception("the database of jobs failed")
        got = getattr(error, "orig", None) or type(error).__name__
        raise UnavailableError("the database of jobs failed", got=got, fix="Try again later.") from error


_shared: dict[Settings, Jobs] = {}


def shared_jobs(settings: Settings) -> Jobs:
    """The jobs of this process: one for all kinds."""
    return _shared.setdefault(settings, Jobs(settings)) if settings not in _shared else _shared[settings]
