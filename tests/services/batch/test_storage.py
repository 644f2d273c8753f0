"""Outputs appear whole, on a disk, in an object store, and on a file system that has nothing but files."""

from __future__ import annotations

import errno
import uuid
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from models.errors import ConfigError
from services.batch import storage as storages
from services.batch.storage import OutputFile, Storage, StorageError, is_full, patiently


class Plain(MemoryFileSystem):
    """A file system whose files are seen while they are written."""

    protocol = "plain"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    sent: ClassVar[list] = []

    def put_file(self, local, remote, *args, **kwargs):
        self.sent.append(remote)
        return super().put_file(local, remote, *args, **kwargs)


fsspec.register_implementation("plain", Plain, clobber=True)


@pytest.fixture(params=["disk", "memory", "plain"])
def storage(request, tmp_path):
    return Storage.at(str(tmp_path / "out") if request.param == "disk" else f"{request.param}://{uuid.uuid4().hex}/out", 0.0)


def test_what_a_workplace_holds_is_published_and_known_again(storage):
    with storage.lock():
        with storage.workplace() as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "b.txt").write_bytes(b"two")
            (folder / "a.txt").write_bytes(b"one")
            outputs = storage.publish(folder)
        one = OutputFile("a.txt", 3, "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed")
        assert outputs[0] == one
        assert [output.path for output in outputs] == ["a.txt", "deep/b.txt"]
        assert all(storage.holds(output, content=True) for output in outputs)
        storage.write("a.txt", b"eno")
        assert storage.holds(one, content=False)
        assert not storage.holds(one, content=True)
        storage.write("a.txt", b"longer")
        assert not storage.holds(one, content=False)
        assert storage.names("deep") == {"b.txt"}
        assert storage.read("deep/b.txt") == b"two"
        storage.remove("a.txt")
        storage.remove("a.txt")
        assert storage.read("a.txt") is None
        assert not storage.holds(one, content=False)
        assert storage.names("nothing") == set()


def test_a_store_of_many_files_is_replaced_as_a_whole(storage):
    for parts in (["zarr.json", "0/c/0", "0/c/1"], ["zarr.json", "0/c/0"]):
        with storage.workplace() as folder:
            for part in parts:
                (folder / "a/x.zarr" / part).parent.mkdir(parents=True, exist_ok=True)
                (folder / "a/x.zarr" / part).write_text(part)
            storage.publish(folder)
    assert storage.names("a/x.zarr/0/c") == {"0"}


def test_a_plain_file_system_gets_other_names_first():
    storage = Storage.at(f"plain://{uuid.uuid4().hex}/out", 0.0)
    Plain.sent.clear()
    for content in (b"1", b"22"):
        storage.write("a.txt", content)
    assert storage.read("a.txt") == b"22"
    assert storage.names("") == {"a.txt"}
    assert all(name.endswith(".partial") for name in Plain.sent)


def test_a_disk_is_written_by_one_run_at_a_time_which_cleans_up(tmp_path):
    storage = Storage.at(str(tmp_path))
    (tmp_path / ".convoy" / "work" / "left").mkdir(parents=True)
    with storage.lock():
        assert list((tmp_path / ".convoy").iterdir()) == [tmp_path / ".convoy" / "lock"]
        with pytest.raises(ConfigError, match="another run writes to this folder"), Storage.at(str(tmp_path)).lock():
            pass


def test_what_cannot_be_written_to_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="the output folder cannot be used"), Storage.at(str(tmp_path / "file")).lock():
        pass
    for address in ("nosuchprotocol://x", "sftp://x/y"):
        with pytest.raises(ConfigError, match="not a place that can be written to"):
            Storage.at(address)


def test_who_does_not_answer_is_asked_again_for_a_while(monkeypatch):
    asked = []

    def recovers():
        asked.append(1)
        if len(asked) < 3:
            raise ConnectionError("refused")
        return "answer"

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert patiently(recovers, 60) == "answer"
    for problem in (FileNotFoundError(), PermissionError(), OSError(errno.ENOSPC, "full"), ValueError()):
        asked.clear()

        def fails(problem=problem):
            asked.append(1)
            raise problem

        with pytest.raises(type(problem)):
            patiently(fails, 60)
        assert len(asked) == 1


def test_a_full_disk_is_found_behind_other_errors():
    problem = ConfigError("the output cannot be written")
    problem.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert is_full(problem)
    assert not is_full(ConfigError("x"))
    assert not is_full(None)


def test_the_parts_of_a_store_are_told_from_other_folders():
    outputs = [OutputFile(path, 0, "") for path in ("a.txt", "b/x/0/zarr.json", "b/x/zarr.json", "b/x/c/0", "c.zarr/y.nii")]
    assert storages._stores(outputs) == {"b/x"}


def test_a_folder_that_is_no_store_is_never_removed(tmp_path):
    storage = Storage.at(str(tmp_path))
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "raw").write_text("mine")
    with storage.workplace() as folder:
        (folder / "a.zarr").mkdir()
        (folder / "a.zarr" / "zarr.json").write_text("{}")
        with pytest.raises(StorageError, match="no Zarr store would be replaced"):
            storage.publish(folder)
    assert (tmp_path / "a.zarr" / "raw").read_text() == "mine"
