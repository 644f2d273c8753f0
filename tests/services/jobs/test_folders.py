"""A folder per job."""

from __future__ import annotations

import pytest

from services.jobs.folders import JobFolders, is_id

ID = "0123456789abcdef" * 2
ABOUT = {"name": "Täg.wav", "fields": {"model": "slow"}, "owner": "k", "request": "r", "created_at": "2026-01-01T00:00:00+00:00"}


@pytest.fixture
def folders(tmp_path):
    folders = JobFolders(tmp_path / "a" / "jobs")
    folders.make()
    return folders


def accepted(folders):
    arrived = folders.root / "arrived"
    arrived.mkdir()
    (arrived / "upload").write_bytes(b"sound")
    folders.accept("separate", ID, arrived, ABOUT)
    return folders.of("separate", ID)


def test_what_was_accepted_is_all_there_and_nobody_elses(folders):
    folder = accepted(folders)
    assert (folder.about(), folder.upload.read_bytes(), folder.attempts(), folder.progress()) == (ABOUT, b"sound", 0, 0.0)
    assert folders.known("separate") == [ID]
    assert folders.known("segment") == []
    assert oct(folders.root.stat().st_mode & 0o777) == "0o700"


def test_an_attempt_begins_in_an_empty_folder_and_leaves_nothing_when_it_fails(folders):
    folder = accepted(folders)
    (folder.path / "work-dead").mkdir()

    def half() -> None:
        with folder.attempt() as place:
            (place / "half").write_text("a")
            assert [path.name for path in folder.path.glob("work-*")] == [place.name]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert sorted(path.name for path in folder.path.iterdir()) == ["job.json", "upload"]


def test_an_outcome_takes_the_place_of_what_it_came_from(folders):
    folder = accepted(folders)
    with folder.attempt() as place:
        (place / "made").write_text("voices")
        folder.conclude({"made": {"path": f"{place.name}/made"}})
    assert folder.outcome() == {"made": {"path": f"{place.name}/made"}}
    assert (place / "made").read_text() == "voices"
    assert not folder.upload.exists()
    folder.conclude({"error": {"code": "x"}})
    assert sorted(path.name for path in folder.path.iterdir()) == ["job.json", "outcome.json"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[1]", b"nan", b"-1e9", b"-5"])
def test_damaged_notes_are_no_notes(folders, content):
    folder = accepted(folders)
    for name in ("job.json", "attempts", "progress", "outcome.json"):
        (folder.path / name).write_bytes(content)
    assert (folder.about(), folder.outcome(), folder.attempts()) == (None, None, 0)
    assert 0.0 <= folder.progress() <= 1.0


def test_removing_is_done_once_and_whole(folders):
    folder = accepted(folders)
    assert folders.remove("separate", ID) == folders.root / "removed" / ID
    assert folders.remove("separate", ID) is None
    assert not folder.path.exists()
    folders.sweep()
    assert list((folders.root / "removed").iterdir()) == []


@pytest.mark.parametrize("text", ["", "a", "..", ID.upper(), ID + "\n", ID[:-1] + "/", "é" * 32])
def test_only_ids_are_ids(text):
    assert is_id(ID)
    assert not is_id(text)
