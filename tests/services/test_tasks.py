"""Work that outlives its request: the states, the bound, whose it is, how long it is kept."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from models.errors import InputError, UnavailableError
from services.batching import BusyError
from services.identity import caller
from services.jobs import line
from services.jobs.process import shared_jobs
from services.pool import Job
from services.settings import Settings
from services.tasks import CanceledTaskError, FailedTaskError, Tasks, UnfinishedTaskError, UnknownTaskError
from services.uploads import Upload
from services.workspace import Made, Workspace


class Working:
    """What the work of a kind waits for, and did."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.stopped = threading.Event()
        self.seen: list[tuple[str, bytes]] = []


WORKING = Working()


def shout(upload: Upload, workspace: Workspace):
    """Upper case; by its fields it waits, fails, or is a bug."""

    def work(job: Job) -> Made:
        content = upload.path.read_bytes()
        WORKING.seen.append((upload.name, content))
        job.progress = 0.5
        while upload.fields.get("wait") and not WORKING.go.wait(0.005):
            if job.cancelled():
                WORKING.stopped.set()
                raise RuntimeError("stopped")
        if "wrong" in upload.fields:
            raise InputError("not a recording", where="audio")
        target = workspace.path / "made.txt"
        if not content:
            raise ZeroDivisionError("a bug of ours")
        target.write_bytes(content.upper())
        return Made(target, f"{upload.name}.txt", "text/plain", {"X-Notes": "loud"})

    return work


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """One process's jobs, of a kind for each test that counts them; it looks for the next one more often than a server does."""
    patched = pytest.MonkeyPatch()
    patched.setattr(line, "_POLL_SECONDS", 0.05)
    jobs = shared_jobs(Settings(jobs=tmp_path_factory.mktemp("state") / "jobs", task_seconds=1.5))
    jobs.kinds.update(dict.fromkeys(("main", "full", "kept", "torn"), shout))
    jobs.start()
    yield jobs
    patched.undo()
    asyncio.run(jobs.close())
    assert not list(jobs.settings.jobs.glob("convoy-*"))


def run(main, *arguments) -> None:
    """With a fresh event loop whose default threads are never needed."""
    WORKING.__init__()  # type: ignore[misc]

    async def limited() -> None:
        await asyncio.wait_for(main(*arguments), 20)

    asyncio.run(limited())


async def submit(tasks: Tasks, content: bytes = b"hello", name: str = "a", **fields: str) -> dict:
    workspace = await tasks.admit()
    (workspace.path / "upload").write_bytes(content)
    try:
        return await tasks.submit(Upload(workspace.path / "upload", name, fields), workspace)
    except BaseException:
        workspace.remove()
        raise


async def until(tasks: Tasks, task_id: str, *wanted: str) -> dict:
    while (found := await tasks.describe(task_id))["status"] not in wanted:
        await asyncio.sleep(0.02)
    return found


def test_a_task_goes_from_pending_to_completed_and_its_result_can_be_fetched_again(jobs):
    async def main() -> None:
        tasks = Tasks(jobs, "main", 9, 60)
        first = await submit(tasks, b"hello", "Täg", wait="1")
        second, third = await submit(tasks, b"there"), await submit(tasks, b"more")
        assert (first["status"], first["position"], first["completed_at"]) == ("pending", 1, None)
        running = await until(tasks, first["task_id"], "in_progress")
        assert running["position"] is None
        with pytest.raises(UnfinishedTaskError, match="got in_progress"):
            await tasks.result(first["task_id"])
        assert [(await tasks.describe(each["task_id"]))["position"] for each in (second, third)] == [1, 2]
        while (await tasks.describe(first["task_id"]))["progress"] != 0.5:
            await asyncio.sleep(0.02)
        WORKING.go.set()
        done = await until(tasks, first["task_id"], "completed")
        assert (done["progress"], done["created_at"], done["position"]) == (1.0, first["created_at"], None)
        assert done["completed_at"] > done["created_at"]
        for _ in range(2):
            made, workspace = await tasks.result(first["task_id"])
            assert (made.path.read_bytes(), made.name, made.headers) == (b"HELLO", "Täg.txt", {"X-Notes": "loud"})
            assert made.path.is_relative_to(workspace.path)
        assert not (workspace.path / "upload").exists()  # no longer needed
        await until(tasks, third["task_id"], "completed")
        assert WORKING.seen == [("Täg", b"hello"), ("a", b"there"), ("a", b"more")]
        assert len({first["task_id"], second["task_id"], third["task_id"]}) == 3
        assert len(first["task_id"]) == 32

    run(main)


def test_what_went_wrong_is_told_and_our_own_bugs_are_logged(jobs, caplog):
    async def main() -> None:
        tasks = Tasks(jobs, "main", 99, 60)
        theirs, ours = await submit(tasks, wrong="1"), await submit(tasks, b"")
        error = (await until(tasks, theirs["task_id"], "failed"))["error"]
        assert error == {"code": "input_invalid", "message": "audio: not a recording"}
        with pytest.raises(FailedTaskError, match=r"^audio: not a recording$") as caught:
            await tasks.result(theirs["task_id"])
        assert (caught.value.code, caught.value.status) == ("input_invalid", 400)
        assert (await until(tasks, ours["task_id"], "failed"))["error"]["code"] == "internal"
        with pytest.raises(FailedTaskError, match="on our side") as caught:
            await tasks.result(ours["task_id"])
        assert caught.value.status == 500
        assert sorted(path.name for path in jobs.folders.of("main", ours["task_id"]).path.iterdir()) == [
            "attempts",
            "job.json",
            "outcome.json",
        ]

    with caplog.at_level(logging.ERROR):
        run(main)
    assert "ZeroDivisionError" in caplog.text
    assert "not a recording" not in caplog.text


def test_cancel_stops_what_waits_and_what_runs_and_leaves_what_is_done(jobs):
    async def main() -> None:
        tasks = Tasks(jobs, "main", 99, 60)
        done = await submit(tasks)
        await until(tasks, done["task_id"], "completed")
        running, waiting = await submit(tasks, wait="1"), await submit(tasks)
        await until(tasks, running["task_id"], "in_progress")
        while len(WORKING.seen) < 2:  # a worker that has taken a job has not yet begun it
            await asyncio.sleep(0.02)
        for task in (waiting, running):
            assert (await tasks.cancel(task["task_id"]))["status"] == "canceled"
            with pytest.raises(CanceledTaskError):
                await tasks.result(task["task_id"])
        assert await asyncio.to_thread(WORKING.stopped.wait, 1)
        while any((jobs.folders.of("main", task["task_id"]).path / "upload").exists() for task in (running, waiting)):
            await asyncio.sleep(0.02)
        assert (await tasks.cancel(done["task_id"]))["status"] == "completed"
        assert [name for name, _ in WORKING.seen] == ["a", "a"]  # what waited was never begun

    run(main)


def test_a_task_belongs_to_the_key_that_submitted_it(jobs):
    async def main() -> None:
        tasks = Tasks(jobs, "main", 99, 60)
        caller.set("alice")
        task = await submit(tasks)
        await until(tasks, task["task_id"], "completed")
        for other in ("bob", ""):
            caller.set(other)
            for ask in (tasks.describe, tasks.result, tasks.cancel):
                with pytest.raises(UnknownTaskError, match="no such task"):
                    await ask(task["task_id"])
        caller.set("alice")
        assert (await tasks.describe(task["task_id"]))["status"] == "completed"

    run(main)


@pytest.mark.parametrize("task_id", ["../../etc/passwd", "a" * 32, "A" * 32, "", "é" * 32, "a" * 33])
def test_ids_that_are_none_are_unknown(jobs, task_id):
    async def main() -> None:
        for ask in (Tasks(jobs, "main", 9, 60).describe, Tasks(jobs, "main", 9, 60).cancel):
            with pytest.raises(UnknownTaskError, match="no such task"):
                await ask(task_id)

    run(main)


def test_a_task_of_one_kind_is_not_known_to_another(jobs):
    async def main() -> None:
        task = await submit(Tasks(jobs, "main", 99, 60))
        with pytest.raises(UnknownTaskError):
            await Tasks(jobs, "full", 99, 60).describe(task["task_id"])

    run(main)


def test_their_number_is_bounded_and_time_makes_room(jobs):
    async def main() -> None:
        tasks = Tasks(jobs, "full", 3, 60)
        done = [await submit(tasks) for _ in range(3)]
        with pytest.raises(BusyError, match="at most 3") as caught:
            await tasks.admit()
        assert caught.value.retry_after >= 1
        await until(tasks, done[-1]["task_id"], "completed")
        await asyncio.sleep(1.6)
        with pytest.raises(UnknownTaskError, match="no such task"):
            await tasks.describe(done[0]["task_id"])
        await submit(tasks)
        left = {path.name for path in (jobs.settings.jobs / "full").iterdir()}
        assert not left & {each["task_id"] for each in done}
        while list((jobs.settings.jobs / "removed").iterdir()):
            await asyncio.sleep(0.02)

    run(main)


def test_a_clock_that_jumps_removes_nothing_early(jobs, monkeypatch):
    async def main() -> None:
        tasks = Tasks(jobs, "kept", 9, 60)
        task = await submit(tasks)
        await until(tasks, task["task_id"], "completed")
        clock = time.time
        for jump in (86_400, -86_400):
            monkeypatch.setattr(time, "time", lambda jump=jump: clock() + jump)
            await jobs.ask(jobs.purge)
            assert (await tasks.result(task["task_id"]))[0].path.read_bytes() == b"HELLO"
        monkeypatch.undo()

    run(main)


def test_a_full_disk_accepts_nothing_and_leaves_nothing(jobs, monkeypatch):
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def main() -> None:
        tasks = Tasks(jobs, "torn", 9, 60)
        for name in ("services.jobs.folders.sync", "services.jobs.folders.write_through"):
            with monkeypatch.context() as patched:
                patched.setattr(name, full)
                with pytest.raises(UnavailableError, match="no room to store the upload"):
                    await submit(tasks)
        with monkeypatch.context() as patched:
            patched.setattr(jobs._line, "join", partial(failing_database))
            with pytest.raises(UnavailableError, match="database of jobs failed: got database or disk is full"):
                await submit(tasks)
        assert jobs.kept("torn") == 0
        assert (await submit(tasks))["status"] == "pending"

    run(main)


def failing_database(*_) -> None:
    from sqlalchemy.exc import OperationalError

    raise OperationalError("INSERT", {}, Exception("database or disk is full"))


def test_files_that_vanished_are_told_of(jobs):
    async def main() -> None:
        tasks = Tasks(jobs, "torn", 99, 60)
        first, lost, done = await submit(tasks, wait="1"), await submit(tasks), None
        await until(tasks, first["task_id"], "in_progress")
        (jobs.folders.of("torn", lost["task_id"]).path / "upload").unlink()
        WORKING.go.set()
        assert (await until(tasks, lost["task_id"], "failed"))["error"]["code"] == "task_lost"
        done = await submit(tasks)
        await until(tasks, done["task_id"], "completed")
        (await tasks.result(done["task_id"]))[0].path.unlink()
        with pytest.raises(UnavailableError, match="the result is gone"):
            await tasks.result(done["task_id"])

    run(main)


def test_a_client_who_goes_before_the_answer_leaves_no_task(jobs, monkeypatch):
    async def main() -> None:
        tasks = Tasks(jobs, "kept", 99, 60)
        before = jobs.kept("kept")
        accept, entered = jobs.accept, threading.Event()

        def slowly(*arguments):
            entered.set()
            time.sleep(0.2)
            return accept(*arguments)

        monkeypatch.setattr(jobs, "accept", slowly)
        submission = asyncio.create_task(submit(tasks))
        while not entered.is_set():
            await asyncio.sleep(0.01)
        submission.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submission
        await asyncio.sleep(0.5)
        assert jobs.kept("kept") == before

    run(main)


def test_many_at_once_are_all_done_and_none_is_mixed_up(jobs):
    async def main() -> None:
        tasks = Tasks(jobs, "main", 99, 60)
        contents = [f"text {number}".encode() for number in range(12)]
        accepted = await asyncio.gather(*(submit(tasks, content) for content in contents))

        async def check(task: dict, content: bytes) -> None:
            await until(tasks, task["task_id"], "completed")
            assert (await tasks.result(task["task_id"]))[0].path.read_bytes() == content.upper()

        await asyncio.gather(*map(check, accepted, contents))
        assert sorted(content for _, content in WORKING.seen) == sorted(contents)

    run(main)


def test_calls_do_not_need_the_event_loops_own_threads(jobs):
    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        blocked = asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.3)
        await Tasks(jobs, "main", 99, 60).admit()
        assert not blocked.done()
        await blocked

    run(main)
