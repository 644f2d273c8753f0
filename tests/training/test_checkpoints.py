"""Whatever happens while a checkpoint is written, the one before it is there and whole."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import subprocess
from contextlib import contextmanager

import pytest
import torch

from models.errors import ConfigError
from tests.training.runs import ended, fit, start, write_run
from training import checkpoints
from training.checkpoints import WholeFiles


def state(number):
    return {"state_dict": {"weight": torch.full((50_000,), float(number))}, "epoch": number}


def loaded(path):
    return torch.load(path, weights_only=True)


def names(folder):
    return [path.name for path in folder.iterdir()]


@contextmanager
def longest_file(size):
    """No file of this process grows longer, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new/last.ckpt"
    for number in (1, 2):
        WholeFiles().save_checkpoint(state(number), path)
        assert WholeFiles().load_checkpoint(path)["epoch"] == number
    assert names(path.parent) == ["last.ckpt"]


def assert_as_before(path, error):
    assert loaded(path)["epoch"] == 1
    assert torch.equal(loaded(path)["state_dict"]["weight"], state(1)["state_dict"]["weight"])
    assert names(path.parent) == ["last.ckpt"]
    for part in (str(path), "cannot be written", "Make room", "--ckpt_path last"):
        assert part in str(error)


def test_a_file_that_cannot_grow(tmp_path):
    path = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint(state(1), path)
    with pytest.raises(ConfigError) as raised, longest_file(path.stat().st_size // 2):
        WholeFiles().save_checkpoint(state(2), path)
    assert_as_before(path, raised.value)


@contextmanager
def small_disk(folder, monkeypatch):
    """A disk with room for one checkpoint and a half; who may not mount one gets a second file that breaks off half way."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode == 0:
        try:
            yield
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        return
    write, written = checkpoints._write, []

    def half(path, content):
        written.append(path)
        write(path, content if len(written) == 1 else content[: len(content) // 2])
        if len(written) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "_write", half)
    yield


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    with small_disk(tmp_path, monkeypatch):
        path = tmp_path / "last.ckpt"
        WholeFiles().save_checkpoint(state(1), path)
        with pytest.raises(ConfigError) as raised:
            WholeFiles().save_checkpoint(state(2), path)
        assert "No space left on device" in str(raised.value)
        assert_as_before(path, raised.value)


def test_a_kill_in_the_middle_of_writing(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint(state(1), path)

    def die(descriptor):
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.os, "fsync", die)
        process = multiprocessing.get_context("fork").Process(target=WholeFiles().save_checkpoint, args=(state(2), path))
        process.start()
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert loaded(path)["epoch"] == 1
    WholeFiles().save_checkpoint(state(3), path)
    assert loaded(path)["epoch"] == 3
    assert names(tmp_path) == ["last.ckpt"], "what the killed one left is gone"


def test_a_run_whose_disk_is_full_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_run("tagger", tmp_path, max_epochs=1)
    fit(path)
    last = tmp_path / "runs/x/last.ckpt"
    before = last.read_bytes()
    process = start(tmp_path, "fit", "--config", str(path), "--ckpt_path", "last", "--trainer.max_epochs", "2", module="convoy")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))
    said = ended(process, 2)
    assert "cannot be written" in said
    assert "Make room" in said
    assert "Traceback" not in said
    assert last.read_bytes() == before
