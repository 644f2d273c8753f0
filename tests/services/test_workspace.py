"""Folders that go when they should."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import serving

from models.errors import UnavailableError
from services.workspace import FileAnswer, Made, Workspace, Workspaces, remove_folder, remove_orphans


@pytest.fixture
def workspaces(tmp_path):
    made = Workspaces(tmp_path)
    yield made
    made.close()
    assert list(tmp_path.iterdir()) == []


def gone(path) -> bool:
    deadline = time.monotonic() + 5
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not path.exists()


def test_a_workspace_is_there_until_it_is_removed(workspaces):
    workspace = workspaces.new()
    (workspace.path / "a").write_text("a")
    assert oct(workspace.path.stat().st_mode & 0o777) == "0o700"
    workspace.remove()
    workspace.remove()
    assert gone(workspace.path)


def test_it_stays_while_somebody_is_at_work_in_it(workspaces):
    workspace = workspaces.new()
    with workspace.in_use(), workspace.in_use() as path:
        workspace.remove()
        (path / "late").write_text("late")
        time.sleep(0.05)
        assert (path / "late").exists()
    assert gone(workspace.path)


def test_many_threads_agree_on_who_leaves_last(workspaces):
    workspace = workspaces.new()

    def work() -> None:
        for _ in range(200):
            with workspace.in_use():
                missing.extend([] if workspace.path.exists() else ["gone"])

    missing: list[str] = []
    with workspace.in_use():
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        workspace.remove()
        for thread in threads:
            thread.join()
        assert not missing
    assert gone(workspace.path)


def test_what_is_needed_meanwhile_goes_with_its_block(workspaces):
    workspace = workspaces.new()
    with workspace.scratch() as first, workspace.scratch() as second:
        (first / "voxels").write_text("a")
        assert first.parent == second.parent == workspace.path
        assert first != second
    assert gone(first)
    assert gone(second)
    assert workspace.path.exists()
    at_once = Workspace(workspace.path, remove_folder)
    with contextlib.suppress(UnavailableError), at_once.scratch() as third:
        (third / "voxels").write_text("a")
        raise UnavailableError("the disk is full")
    assert list(workspace.path.iterdir()) == []
    workspace.remove()


def test_nothing_is_made_before_it_is_needed(tmp_path):
    Workspaces(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_a_place_without_room_is_said(tmp_path):
    workspaces = Workspaces(tmp_path / "missing")
    with pytest.raises(UnavailableError, match="no room"):
        workspaces.new()
    workspaces.close()


def test_a_folder_that_was_tidied_away_is_made_again(workspaces):
    idle = workspaces.new()
    shutil.rmtree(idle.path.parent)
    again, more = workspaces.new(), workspaces.new()
    (again.path / "a").write_text("a")
    assert again.path.parent == more.path.parent != idle.path.parent
    for workspace in (idle, again, more):
        workspace.remove()
        assert gone(workspace.path)


@pytest.mark.parametrize("tidied", [False, True])
def test_many_threads_begin_in_one_folder(workspaces, tidied):
    if tidied:
        shutil.rmtree(workspaces.new().path.parent)
    together = threading.Barrier(4, timeout=20)

    def begin(_: int) -> Workspace:
        together.wait()
        made = workspaces.new()
        (made.path / "upload").write_text("a")
        return made

    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(begin, range(4)))
    assert all((workspace.path / "upload").exists() for workspace in made)
    assert len({workspace.path.parent for workspace in made}) == 1


KILLED = """
import os, sys
from pathlib import Path
from services.workspace import Workspaces
workspaces = Workspaces(Path(sys.argv[1]))
(workspaces.new().path / "upload").write_text("left behind")
os._exit(9)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(tmp_path):
    alive = Workspaces(tmp_path)
    kept = alive.new()
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=serving.CHECKOUT, check=False, timeout=60)
    stranger = tmp_path / "convoy-notes"
    stranger.mkdir()
    assert len(list(tmp_path.iterdir())) == 3
    remove_orphans(tmp_path)  # all too young
    assert len(list(tmp_path.iterdir())) == 3
    for folder in tmp_path.iterdir():
        os.utime(folder, (0, 0))
    remove_orphans(tmp_path)
    assert set(tmp_path.iterdir()) == {kept.path.parent, stranger}
    alive.close()


def send(answer: FileAnswer, *, fail: bool = False) -> list[dict]:
    sent: list[dict] = []

    async def receive():
        await asyncio.sleep(60)

    async def put(message):
        if fail:
            raise OSError("the client has gone")
        sent.append(message)

    scope = {"type": "http", "method": "GET", "headers": [], "path": "/"}
    try:
        asyncio.run(answer(scope, receive, put))
    except* OSError:
        assert fail
    return sent


@pytest.mark.parametrize("fail", [False, True])
def test_an_answer_takes_its_workspace_with_it(workspaces, fail):
    workspace = workspaces.new()
    (workspace.path / "voices.wav").write_bytes(b"voices")
    sent = send(
        FileAnswer(workspace.path / "voices.wav", name="é.wav", kind="audio/wav", workspace=workspace, last=True), fail=fail
    )
    assert gone(workspace.path)
    if not fail:
        headers = dict(sent[0]["headers"])
        assert headers[b"content-length"] == b"6"
        assert headers[b"content-disposition"] == b"attachment; filename*=utf-8''%C3%A9.wav"
        assert b"".join(message.get("body", b"") for message in sent[1:]) == b"voices"


def test_a_result_that_is_kept_can_be_fetched_twice(workspaces):
    workspace = workspaces.new()
    (workspace.path / "voices.wav").write_bytes(b"voices")
    for _ in range(2):
        sent = send(FileAnswer(workspace.path / "voices.wav", name="a.wav", kind="audio/wav", workspace=workspace, last=False))
        assert sent[0]["status"] == 200
    workspace.remove()
    assert gone(workspace.path)


def test_a_small_answer_is_read_by_who_made_it(workspaces):
    workspace = workspaces.new()
    path = workspace.path / "labels.nii.gz"
    path.write_bytes(b"labels")
    made = Made(path, "标签.nii.gz", "application/gzip", {"X-Volume-Notes": "[]"})
    from_disk = send(made.answer(workspace, last=False))
    read = made.read()
    path.unlink()
    sent = send(read.answer(workspace, last=True))
    assert gone(workspace.path)
    assert [message.get("body", b"") for message in sent] == [b"", b"labels"]
    theirs, ours = (dict(part[0]["headers"]) for part in (from_disk, sent))
    assert ours == {name: value for name, value in theirs.items() if name not in (b"etag", b"last-modified", b"accept-ranges")}
    assert read.as_dict(path.parent) == made.as_dict(path.parent)  # a task's record names the file


def test_a_large_answer_is_sent_from_disk_in_pieces(workspaces):
    workspace = workspaces.new()
    path = workspace.path / "voices.wav"
    path.write_bytes(bytes(FileAnswer.chunk_size + 1))
    made = Made(path, "voices.wav", "audio/wav").read()
    assert made.content is None
    sent = send(made.answer(workspace, last=True))
    assert [len(message.get("body", b"")) for message in sent] == [0, FileAnswer.chunk_size, 1]
