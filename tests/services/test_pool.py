"""Threads for long work: the bound, cancelling, closing."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from functools import partial

import pytest

from models.errors import UnavailableError
from services.batching import BusyError
from services.pool import Job, Pool, standing_back


def until_cancelled(started: list[str], name: str, job: Job) -> None:
    started.append(name)
    deadline = time.monotonic() + 10
    while not job.cancelled() and time.monotonic() < deadline:
        time.sleep(0.005)
    started.append(f"{name} stopped")


def run(main) -> None:
    async def limited():
        await asyncio.wait_for(main(), 10)

    asyncio.run(limited())


async def settle() -> None:
    await asyncio.sleep(0.1)


def test_answers_and_exceptions_come_back():
    async def main():
        pool = Pool("test", 2, 0)
        assert await pool.run(lambda job: (job.started, threading.current_thread() is threading.main_thread())) == (True, False)
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda job: 1 // 0)
        await settle()
        assert pool.held == 0
        await pool.close()

    run(main)


def test_no_more_run_and_wait_than_is_said():
    async def main():
        pool, started = Pool("test", 2, 1), []
        held = [asyncio.create_task(pool.run(partial(until_cancelled, started, name))) for name in "abc"]
        await settle()
        assert started == ["a", "b"]
        with pytest.raises(BusyError) as caught:
            await pool.run(lambda job: None)
        assert caught.value.retry_after >= 1
        held[0].cancel()
        await settle()
        assert sorted(started) == ["a", "a stopped", "b", "c"]
        assert held[0].cancelled()
        pool.check_room()  # a place is free again
        for task in held[1:]:
            task.cancel()
        await pool.close()

    run(main)


def test_a_cancelled_caller_goes_at_once_and_its_place_is_free_when_its_thread_is():
    async def main():
        pool = Pool("test", 1, 0)
        release = threading.Event()
        task = asyncio.create_task(pool.run(lambda job: release.wait(5)))
        await settle()
        task.cancel()
        started = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 1
        with pytest.raises(BusyError):  # the thread does not look whether it is wanted
            await pool.run(lambda job: None)
        release.set()
        await settle()
        assert await pool.run(lambda job: "free") == "free"
        await pool.close()

    run(main)


def test_work_that_waits_is_never_begun_once_its_caller_has_gone():
    async def main():
        pool, started = Pool("test", 1, 5), []
        first = asyncio.create_task(pool.run(partial(until_cancelled, started, "first")))
        second = asyncio.create_task(pool.run(partial(until_cancelled, started, "second")))
        await settle()
        second.cancel()
        await settle()
        assert pool.held == 1
        first.cancel()
        await settle()
        assert started == ["first", "first stopped"]
        await pool.close()

    run(main)


@pytest.mark.parametrize("slow", [0.0, 0.3])
def test_closing_tells_everybody(slow):
    async def main():
        pool, started = Pool("test", 1, 5), []
        running = asyncio.create_task(pool.run(partial(until_cancelled, started, "running")))
        waiting = asyncio.create_task(pool.run(partial(until_cancelled, started, "waiting")))
        await settle()
        shutdown = pool._threads.shutdown
        pool._threads.shutdown = lambda **how: (time.sleep(slow), shutdown(**how))  # meanwhile the first one ends
        await pool.close()
        outcome = await asyncio.gather(running, waiting, return_exceptions=True)
        assert outcome[0] is None
        assert isinstance(outcome[1], UnavailableError)
        assert started == ["running", "running stopped"]
        with pytest.raises(UnavailableError, match="stopping"):
            await pool.run(lambda job: None)

    run(main)


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")
def test_long_work_and_the_threads_it_leaves_behind_stand_back():
    async def main():
        pool, equal = Pool("test", 1, 0, nice=3), Pool("test", 1, 0)
        assert await pool.run(lambda job: niceness()) == min(niceness() + 3, 19)
        assert await equal.run(lambda job: niceness()) == niceness()
        await pool.close()
        await equal.close()

    run(main)
    assert standing_back(40, niceness) == 19
    inherited: list[int] = []

    def leave_a_thread() -> threading.Thread:
        thread = threading.Thread(target=lambda: inherited.append(niceness()))
        thread.start()
        return thread

    standing_back(2, leave_a_thread).join()
    assert inherited == [min(niceness() + 2, 19)]
    with pytest.raises(ZeroDivisionError):
        standing_back(1, lambda: 1 // 0)
