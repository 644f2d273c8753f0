"""Work that outlives its request."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from models.errors import InputError
from services.batching import BusyError
from services.pool import Job, Pool
from services.tasks import CanceledTaskError, Tasks, UnfinishedTaskError, UnknownTaskError
from services.workspace import Workspaces


def run(tmp_path, main, most: int = 3, keep: float = 60) -> None:
    async def limited():
        workspaces = Workspaces(tmp_path)
        tasks = Tasks(Pool("tasks", 1, most), most, keep)
        try:
            await asyncio.wait_for(main(tasks, workspaces.new), 20)
        finally:
            await tasks.close()
            workspaces.close()

    asyncio.run(limited())
    assert list(tmp_path.iterdir()) == []


async def settled(task) -> None:
    while task.completed_at is None:
        await asyncio.sleep(0.01)


def test_a_task_goes_from_pending_to_completed_and_its_result_can_be_fetched_again(tmp_path):
    async def main(tasks, new):
        go = threading.Event()

        def work(job: Job) -> str:
            job.progress = 0.5
            go.wait(5)
            return "voices"

        first, second = tasks.submit(work, new()), tasks.submit(work, new())
        assert first.status == "pending"
        await asyncio.sleep(0.1)
        assert (first.describe()["status"], first.describe()["progress"], second.status) == ("in_progress", 0.5, "pending")
        with pytest.raises(UnfinishedTaskError, match="got in_progress"):
            tasks.result(first.id)
        go.set()
        await settled(second)
        assert first.describe() == {
            "task_id": first.id,
            "status": "completed",
            "progress": 1.0,
            "created_at": first.created_at.isoformat(),
            "completed_at": first.completed_at.isoformat(),
        }
        for _ in range(2):
            assert tasks.result(first.id) == ("voices", first.workspace)
        assert first.workspace.path.exists()
        assert len(first.id) == 32
        assert first.id != second.id

    run(tmp_path, main)


def test_what_went_wrong_is_told_and_our_own_bugs_are_logged(tmp_path, caplog):
    async def main(tasks, new):
        def fail(job):
            raise InputError("not a recording")

        theirs, ours = tasks.submit(fail, new()), tasks.submit(lambda job: 1 // 0, new())
        await settled(ours)
        assert theirs.describe()["error"] == {"code": "input_invalid", "message": "not a recording"}
        with pytest.raises(InputError, match="not a recording"):
            tasks.result(theirs.id)
        assert ours.describe()["error"]["code"] == "internal"
        with pytest.raises(ZeroDivisionError):
            tasks.result(ours.id)
        await asyncio.sleep(0.1)
        assert not theirs.workspace.path.exists()

    with caplog.at_level(logging.ERROR):
        run(tmp_path, main)
    assert "ZeroDivisionError" in caplog.text
    assert "not a recording" not in caplog.text


def test_cancel_stops_what_waits_and_what_runs_and_leaves_what_is_done(tmp_path):
    async def main(tasks, new):
        stopped = threading.Event()

        def work(job: Job) -> str:
            while not job.cancelled():
                time.sleep(0.005)
            stopped.set()
            return "late"

        done = tasks.submit(lambda job: "voices", new())
        await settled(done)
        running, waiting = tasks.submit(work, new()), tasks.submit(work, new())
        await asyncio.sleep(0.1)
        for task in (waiting, running):
            assert tasks.cancel(task.id).status == "canceled"
            await settled(task)
            with pytest.raises(CanceledTaskError):
                tasks.result(task.id)
        assert await asyncio.to_thread(stopped.wait, 5)
        await asyncio.sleep(0.1)
        assert not running.workspace.path.exists()
        assert not waiting.workspace.path.exists()
        assert tasks.cancel(done.id).status == "completed"
        assert tasks.result(done.id)[0] == "voices"

    run(tmp_path, main)


def test_a_task_cancelled_before_its_first_step_is_cleaned_up_too(tmp_path):
    async def main(tasks, new):
        task = tasks.submit(lambda job: "never", new())
        tasks.cancel(task.id)
        await settled(task)
        assert task.status == "canceled"

    run(tmp_path, main)


def test_their_number_is_bounded_and_time_makes_room(tmp_path):
    async def main(tasks, new):
        done = [tasks.submit(lambda job: "voices", new()) for _ in range(3)]
        spare = new()
        with pytest.raises(BusyError, match="at most 3"):
            tasks.submit(lambda job: "voices", spare)
        spare.remove()
        await settled(done[-1])
        await asyncio.sleep(0.5)
        with pytest.raises(UnknownTaskError, match="no such task"):
            tasks.find(done[0].id)
        assert not done[0].workspace.path.exists()
        tasks.check_room()

    run(tmp_path, main, keep=0.2)


def test_closing_ends_what_runs(tmp_path):
    async def main(tasks, new):
        def work(job: Job) -> None:
            while not job.cancelled():
                time.sleep(0.005)

        tasks.submit(work, new())
        tasks.submit(work, new())
        await asyncio.sleep(0.05)

    run(tmp_path, main)
