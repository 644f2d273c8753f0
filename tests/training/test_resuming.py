"""Runs that are killed or told to go end, once resumed, where a run that nobody disturbed ends: bit for bit, on a CPU."""

from __future__ import annotations

import signal

import pytest
import torch

from tests.training.runs import TASKS, assert_same, fit, interrupted, write_run


@pytest.fixture(scope="module", params=TASKS)
def undisturbed(request, tmp_path_factory):
    """(task, last.ckpt of a run that nobody disturbed)"""
    path = write_run(request.param, tmp_path_factory.mktemp("undisturbed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        patch.setenv("OMP_NUM_THREADS", "1")
        return request.param, fit(path)


@pytest.fixture
def run(undisturbed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return write_run(undisturbed[0], tmp_path)


def kept(path):
    return torch.load(path.parent / "runs/x/last.ckpt", weights_only=True)


def test_a_run_killed_in_the_middle_of_an_epoch(undisturbed, run):
    epoch, batch = divmod(9, batches(undisturbed[1]))
    interrupted(run, number=signal.SIGKILL, epoch=epoch, batch=batch, code=-signal.SIGKILL)
    assert kept(run)["global_step"] == 8
    assert 8 % batches(undisturbed[1]), "in the middle of an epoch"
    assert_same(fit(run, "--ckpt_path", "last"), undisturbed[1])


def test_a_run_told_to_go_in_the_middle_of_an_epoch_keeps_that_step(undisturbed, run):
    said = interrupted(run, number=signal.SIGTERM, everybody=True, epoch=1, batch=2, code=143)
    assert "--ckpt_path last" in said
    assert kept(run)["global_step"] == batches(undisturbed[1]) + 3
    assert_same(fit(run, "--ckpt_path", "last"), undisturbed[1])


def batches(checkpoint):
    """In an epoch of this run of three."""
    return checkpoint["global_step"] // 3
