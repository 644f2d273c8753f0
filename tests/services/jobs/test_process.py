"""One process's jobs, closed and opened again: what a restart finds."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from models.errors import UnavailableError
from services.jobs import line, process
from services.jobs.line import Row, set_aside_if_damaged
from services.jobs.process import Jobs
from services.jobs.runner import Turns
from services.pool import Job
from services.settings import Settings
from services.tasks import Tasks
from services.uploads import Upload
from services.workspace import Made

GO, BEGUN = threading.Event(), threading.Event()


def shout(upload, workspace):
    def work(job: Job) -> Made:
        BEGUN.set()
        while upload.fields.get("wait") and not GO.wait(0.005):
            if job.cancelled():
                raise RuntimeError("stopped")
        target = workspace.path / "made"
        target.write_bytes(upload.path.read_bytes().upper())
        return Made(target, "made.txt", "text/plain")

    return work


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens the jobs of a folder, as a worker does when it starts."""
    monkeypatch.setattr(line, "_POLL_SECONDS", 0.05)
    GO.clear()
    BEGUN.clear()

    def opened(**settings) -> Jobs:
        jobs = Jobs(Settings(jobs=tmp_path / "jobs", **settings))
        jobs.kinds["shout"] = shout
        jobs.start()
        return jobs

    return opened


async def submit(tasks: Tasks, content: bytes, **fields: str) -> str:
    workspace = await tasks.admit()
    (workspace.path / "upload").write_bytes(content)
    return str((await tasks.submit(Upload(workspace.path / "upload", "a", fields), workspace))["task_id"])


async def until(tasks: Tasks, task_id: str, wanted: str) -> dict:
    async with asyncio.timeout(20):
        while (found := await tasks.describe(task_id))["status"] != wanted:
            await asyncio.sleep(0.02)
    return found


async def result(tasks: Tasks, task_id: str) -> bytes:
    return (await tasks.result(task_id))[0].path.read_bytes()


def test_a_damaged_store_costs_nothing_that_was_accepted(opened, tmp_path, caplog):
    async def main() -> None:
        jobs = opened()
        tasks = Tasks(jobs, "shout", 9, 60)
        done = await submit(tasks, b"done")
        await until(tasks, done, "completed")
        BEGUN.clear()
        running = await submit(tasks, b"running", wait="1")
        waiting, undescribed, poison = [await submit(tasks, content) for content in (b"waiting", b"lost", b"poison")]
        created = (await until(tasks, running, "in_progress"))["created_at"]
        assert await asyncio.to_thread(BEGUN.wait, 20)  # a worker that has taken a job has not yet begun it
        await jobs.close()
        with pytest.raises(UnavailableError, match="stopping"):
            await tasks.describe(done)

        store = tmp_path / "jobs"
        assert (store / "shout" / running / "attempts").read_text() == "0"  # given back
        (store / "jobs.sqlite").write_bytes(b"no database" * 1000)
        (store / "shout" / undescribed / "job.json").write_text("{")
        (store / "shout" / poison / "attempts").write_text("3")
        GO.set()
        jobs = opened()
        tasks = Tasks(jobs, "shout", 9, 60)
        assert await until(tasks, done, "completed")
        assert await result(tasks, done) == b"DONE"
        assert (await until(tasks, running, "completed"))["created_at"] == created
        assert await result(tasks, running) == b"RUNNING"
        await until(tasks, waiting, "completed")
        assert await result(tasks, waiting) == b"WAITING"
        assert (await until(tasks, poison, "failed"))["error"]["code"] == "task_abandoned"
        assert {path.name for path in (store / "shout").iterdir()} == {done, running, waiting, poison}
        assert [path.name for path in store.glob("jobs.sqlite.damaged-*")]
        await jobs.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert "the database of jobs is damaged" in caplog.text
    assert "has lost its description and is removed" in caplog.text


def test_results_are_purged_after_a_restart_too(opened, tmp_path):
    async def main() -> None:
        jobs = opened(task_seconds=0.3)
        tasks = Tasks(jobs, "shout", 9, 0.3)
        task_id = await submit(tasks, b"a")
        while jobs.folders.of("shout", task_id).outcome() is None:
            await asyncio.sleep(0.02)
        await jobs.close()
        assert jobs.folders.known("shout") == [task_id]
        await asyncio.sleep(0.4)
        jobs = opened(task_seconds=0.3)
        await jobs.ask(lambda: None)  # open
        assert jobs.folders.known("shout") == []
        assert await jobs.ask(jobs._line.find, task_id) is None
        await jobs.close()

    asyncio.run(main())


def test_a_folder_that_cannot_be_used_is_tried_again_and_only_tasks_wait(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_RETRY_SECONDS", (0.1, 0.1))
    monkeypatch.setattr(process, "_START_SECONDS", 0.4)

    async def main() -> None:
        (tmp_path / "jobs").write_text("in the way")
        jobs = opened()
        tasks = Tasks(jobs, "shout", 9, 60)
        with pytest.raises(UnavailableError, match="not open"):
            await tasks.admit()
        (tmp_path / "jobs").unlink()
        async with asyncio.timeout(20):
            while jobs.folders.known("shout") == []:
                try:
                    await submit(tasks, b"a")
                except UnavailableError:
                    await asyncio.sleep(0.1)
        await jobs.close()

    asyncio.run(main())


def test_jobs_of_the_dead_and_own_ones_that_nobody_works_on_go_back_into_the_line(tmp_path):
    jobs = Jobs(Settings(jobs=tmp_path))
    own = jobs._slots.take()
    living = process.Slots(tmp_path / "workers")
    rows = {
        "mine": Row("mine", "shout", "", "in_progress", {}, {}, own, 0.0, None),
        "idle": Row("idle", "shout", "", "in_progress", {}, {}, own, 0.0, None),
        "living": Row("living", "shout", "", "in_progress", {}, {}, living.take(), 0.0, None),
        "dead": Row("dead", "shout", "", "in_progress", {}, {}, "worker-9", 0.0, None),
    }
    returned: list[str] = []

    def running(worker: str | None = None) -> list[Row]:
        return [row for row in rows.values() if row.id not in returned and worker in (None, row.worker)]

    jobs._line = SimpleNamespace(running=running, return_to_line=lambda row: returned.append(row.id))
    jobs._runner = SimpleNamespace(at_work=lambda: frozenset({"mine"}))
    jobs._mend()
    assert returned == ["dead"]
    jobs._mend()
    assert returned == ["dead", "idle"]  # seen idle twice: not just being handed over
    living.leave()
    jobs._mend()
    assert returned == ["dead", "idle", "living"]


def test_importing_the_services_does_not_wait_for_the_database():
    heavy = "{'dbos', 'sqlalchemy', 'psycopg'} & set(sys.modules)"
    code = f"import sys, services.gateway; found = {heavy}; sys.exit(str(found) if found else 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_has_seen_a_process_die_works_alone():
    turns, inside, seen = Turns(), [], []

    def work(name: str, alone: bool) -> None:
        with turns.taken(alone=alone, job=Job()):
            inside.append(name)
            time.sleep(0.05)
            seen.append((name, sorted(inside)))
            inside.remove(name)

    threads = [threading.Thread(target=work, args=each) for each in (("a", False), ("b", False), ("suspect", True), ("c", False))]
    for thread in threads:
        thread.start()
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert len(seen) == 4
    assert ("suspect", ["suspect"]) in seen
    assert all("suspect" not in others for name, others in seen if name != "suspect")


@pytest.mark.parametrize("content", [b"", None, b"SQLite format 3\0" + b"\xff" * 5000, b"x" * 5000])
def test_only_what_is_no_database_is_set_aside(tmp_path, content):
    file = tmp_path / "jobs.sqlite"
    if content is None:
        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE a (b)")
        connection.close()
    else:
        file.write_bytes(content)
    damaged = bool(content)
    assert set_aside_if_damaged(file) is damaged
    assert len(list(tmp_path.glob("*.damaged-*"))) == damaged
