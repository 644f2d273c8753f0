"""A few threads for work of seconds or minutes, with a bounded line before them.

`services.batching` is for many small items that are cheaper together; here each piece of work is large and runs alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from models.errors import UnavailableError
from services import metrics, tracing
from services.batching import BusyError

Answer = TypeVar("Answer")

_LONGEST_RETRY = 60
_NICEST = 19


class Job:
    """What the work and those who wait for it know of each other.

    Attributes:
        started: the work has begun.
        progress: the part that is done, 0 to 1.
    """

    def __init__(self) -> None:
        self.started = False
        self.progress = 0.0
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Nobody wants the answer any more; the work should stop at its next look."""
        self._cancelled.set()

    def cancelled(self) -> bool:
        return self._cancelled.is_set()


class Pool:
    """Runs work in threads, first come, first served.

    Args:
        name: of the threads, in messages, and of the queue in the metrics.
        at_once: pieces of work that run at a time.
        waiting: how many more may wait; past that a call is turned away (HTTP 429).
        nice: how far the threads stand back behind the others of the process, 0 to 19.
    """

    def __init__(self, name: str, at_once: int, waiting: int, nice: int = 0) -> None:
        self._name, self._at_once, self._most = name, at_once, at_once + waiting
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix=name, initializer=lower_priority, initargs=(nice,))
        self._jobs: set[Job] = set()  # waiting and running; one that was cancelled counts until its thread is free
        self._seconds = 0.0  # what a piece of work takes, a moving average
        self._closed = False

    @property
    def held(self) -> int:
        """Pieces of work that wait or run."""
        return len(self._jobs)

    def check_room(self) -> None:
        """To be asked before work is prepared at some cost.

        Raises:
            BusyError: the line is full.
            UnavailableError: the pool is closed.
        """
        if self._closed:
            raise self._stopping()
        if self.held >= self._most:
            seconds = math.ceil(self._seconds * (self.held - self._at_once + 1) / self._at_once)
            raise BusyError("too much work is waiting", where=self._name, retry_after=min(max(seconds, 1), _LONGEST_RETRY))

    async def run(self, work: Callable[[Job], Answer], job: Job | None = None) -> Answer:
        """What `work` returns or raises. A caller who is cancelled goes at once; the work is told, or never begun.

        Raises:
            BusyError: the line is full; nothing was accepted.
            UnavailableError: the pool is closed.
        """
        self.check_room()
        job = job or Job()
        loop = asyncio.get_running_loop()
        self._jobs.add(job)
        metrics.waiting(self._name, +1)
        future = self._threads.submit(contextvars.copy_context().run, self._timed, work, job, time.perf_counter())
        try:
            answer = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            job.cancel()
            future.add_done_callback(lambda done: self._forget_soon(loop, job, never_began=done.cancelled()))
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):  # it was the pool that ended it
                raise self._stopping() from None
            raise
        except BaseException:
            self._jobs.discard(job)
            raise
        self._jobs.discard(job)
        return answer

    async def close(self) -> None:
        """Turn away new work, cancel what is here, and wait for the threads."""
        self._closed = True
        for job in self._jobs:
            job.cancel()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    def _timed(self, work: Callable[[Job], Answer], job: Job, queued: float) -> Answer:
        metrics.waiting(self._name, -1)
        if self._closed:  # its turn came while the threads were being told to end
            raise self._stopping()
        job.started = True
        started = time.perf_counter()
        tracing.past_span("queue", tracing.here(), queued, started)
        try:
            with tracing.span("predict"):
                return work(job)
        finally:
            seconds = time.perf_counter() - started
            self._seconds = 0.8 * self._seconds + 0.2 * seconds if self._seconds else seconds

    def _stopping(self) -> UnavailableError:
        return UnavailableError("the service is stopping", where=self._name, fix="Send the request again in a moment.")

    def _forget_soon(self, loop: asyncio.AbstractEventLoop, job: Job, *, never_began: bool) -> None:
        if never_began:
            metrics.waiting(self._name, -1)
        with contextlib.suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(self._jobs.discard, job)


def lower_priority(nice: int) -> None:
    """Let the calling thread stand back behind others: Linux schedules by thread; elsewhere this does nothing.

    There is no way back without privileges, so this is for threads that do nothing else.
    """
    if nice and sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(os.getpriority(os.PRIO_PROCESS, thread) + nice, _NICEST))


def standing_back(nice: int, function: Callable[[], Answer]) -> Answer:
    """What `function` returns or raises, run in a thread of lower priority.

    The threads that it leaves behind, such as those of a network that it compiles, keep that priority: a network's own threads do
    most of its work, and would outrun the thread that waits for them.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="loading", initializer=lower_priority, initargs=(nice,)) as thread:
        return thread.submit(function).result()
