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


@pytest.mark.parametrize(
    ("accumulated", "batch", "kept_step"),
    [
        (2, 2, 5),  # batches of which two make a step, and the fifth one alone: told in the middle of a step, it is ended first
        (1, 4, 10),  # in the last batch: kept after the validation, so that the best checkpoint misses no epoch
    ],
)
def test_a_run_told_to_go_ends_what_cannot_be_kept_by_halves(accumulated, batch, kept_step, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    straight, run = (write_run("tagger", tmp_path / name, accumulate_grad_batches=accumulated) for name in "ab")
    monkeypatch.chdir(straight.parent)
    undisturbed = fit(straight)
    monkeypatch.chdir(run.parent)
    interrupted(run, number=signal.SIGTERM, epoch=1, batch=batch, code=143)
    assert kept(run)["global_step"] == kept_step
    resumed = fit(run, "--ckpt_path", "last")
    assert_same(resumed, undisturbed)
    best = [state for name, state in resumed["callbacks"].items() if "validation/accuracy" in name]
    assert best[0]["best_model_score"] == next(
        state["best_model_score"] for name, state in undisturbed["callbacks"].items() if "validation/accuracy" in name
    )


def batches(checkpoint):
    """In an epoch of this run of three."""
    return checkpoint["global_step"] // 3
