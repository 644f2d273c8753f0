"""Two processes learn what one learns from both batches at once, and judge what one judges."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import lightning
import pytest
import torch
import yaml

from models.errors import ConfigError
from tests.training.corpora import slash
from tests.training.runs import ended, fit, interrupted, start, with_callback, write_run
from training.cli import main
from training.processes import own_share
from training.tagger.batches import IGNORED, BatchSampler

STILL = {  # what is drawn by the process is left out
    "tagger": {"model": {"dropout": 0.0, "word_dropout": 0.0}},
    "separator": {"model.network.transformer": {"dropout": 0.0}},
    "segmenter": {"data": {"split": {"folds": 2}, "validation_count": 3}},
}
FIGURES = {"tagger": "validation/accuracy", "separator": "validation/si_snri", "segmenter": "validation/dice"}


def write(task, folder):
    """A run of one step, then validation: of 3 mixtures, and of 3 volumes, which two processes cannot share evenly."""
    path = write_run(task, folder, max_epochs=1, limit_train_batches=1)
    settings = yaml.safe_load(path.read_text("utf-8"))
    for place, changes in STILL[task].items():
        part, *names = place.split(".")
        target = settings[part]["init_args"]
        for name in names:
            target = target[name]
        target.update(changes)
    if task == "tagger":  # what a step's batches hold differs: one corpus or the other, with other labels
        (folder / "extra.txt").write_text(slash(40, 2, {"the": "at", "cat": "nn"}, "./."), "utf-8")
        settings["data"]["init_args"]["train"] += [{"path": "extra.txt", "format": "slash", "labels": {"brown": "pos"}}]
    path.write_text(yaml.safe_dump(settings), "utf-8")
    return path


def alone(path, *more):
    """One process that takes a step, and what it goes by."""
    command = main(["fit", "--config", str(with_callback(path, "KeepGradients")), *more])
    return command, torch.load("gradients.pt", weights_only=True)


@pytest.mark.parametrize("task", sorted(STILL))
def test_two_processes_learn_and_judge_as_one(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(task, tmp_path)
    two = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    said = ended(start(tmp_path, "fit", "--config", str(with_callback(path, "KeepGradients")), *two))
    assert "MEMBER: 2/2" in said
    found = torch.load("gradients.pt", weights_only=True)
    judged = main(["validate", "--config", str(path), "--ckpt_path", "runs/x/last.ckpt"]).trainer.callback_metrics
    (kept,) = [
        state for name, state in torch.load("runs/x/last.ckpt", weights_only=True)["callbacks"].items() if FIGURES[task] in name
    ]
    assert kept["current_score"].item() == pytest.approx(judged[FIGURES[task]].item(), abs=1e-6)
    expected = tagger_gradients(path) if task == "tagger" else twice_the_batch(task, path)
    assert found.keys() == expected.keys()
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-4, atol=1e-5 * float(scale), msg=lambda text, n=name: f"{n}: {text}"
        )


def twice_the_batch(task, path):
    data = {
        "separator": ["--data.stages", '[{"epoch": 0, "seconds": 0.25, "batch_size": 4}]', "--data.batches", "3"],
        "segmenter": ["--data.batch_size", "4", "--data.batches", "3"],
    }
    return alone(path, *data[task])[1]


def tagger_gradients(path):
    """Of every label set's mean over the tokens of both processes' batches; those hold different corpora."""

    class Both(lightning.Callback):
        def on_train_start(self, trainer, module):
            dataset = trainer.datamodule.datasets["train"]
            batches = [dataset.collate(next(iter(BatchSampler(dataset, 64, True, 1, rank, 2)))) for rank in (0, 1)]
            assert batches[0].labels.keys() != batches[1].labels.keys()
            module.zero_grad()
            both_losses(module, batches).backward()
            self.gradients = {
                name: torch.zeros_like(each) if each.grad is None else each.grad.clone()
                for name, each in module.named_parameters()
                if each.requires_grad
            }
            trainer.should_stop = True

    both = Both()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.cli.LeaveOnSigterm", lambda: both)
        main(["fit", "--config", str(path)])
    return both.gradients


def both_losses(module, batches):
    names = {name for batch in batches for name in batch.labels}
    total = 0.0
    for name in names:
        sums, tokens = 0.0, 0
        for batch in batches:
            if name in batch.labels:
                labels = batch.labels[name]
                hidden = module.network.hidden(module.tables(batch.rows), batch.letters, batch.index)
                count = (labels != IGNORED).sum()
                scores = module.network.classify(hidden) if name == "labels" else module.network.auxiliary[name](hidden)
                loss = module._loss(module.network, scores, labels) if name == "labels" else module._cross_entropy(scores, labels)
                sums, tokens = sums + loss * count, tokens + count
        total = total + (1.0 if name == "labels" else module.auxiliary_weight) * sums / tokens
    return total


def test_what_is_judged_is_shared_without_a_rest_and_without_doubles():
    shares = [own_share(7, "volumes", SimpleNamespace(global_rank=rank, world_size=3)) for rank in range(3)]
    assert sorted(number for share in shares for number in share) == list(range(7))
    with pytest.raises(ConfigError, match=r"too few volumes.*at least 3.*got 2.*fewer processes"):
        own_share(2, "volumes", SimpleNamespace(global_rank=0, world_size=3))


def test_two_processes_of_which_one_is_told_to_go_leave_together(tmp_path, monkeypatch):
    path = write_run("tagger", tmp_path)
    two = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    said = interrupted(path, *two, number=signal.SIGTERM, epoch=1, batch=0, code=143)
    assert "Ended by SIGTERM after step 4" in said
    assert torch.load(tmp_path / "runs/x/last.ckpt", weights_only=True)["global_step"] == 4
    monkeypatch.chdir(tmp_path)
    main(["validate", "--config", str(path), "--ckpt_path", "runs/x/last.ckpt"])  # which needs no place
    with pytest.raises(ConfigError, match=r"another number of processes.*expected 2.*got 1, in epoch 1 after 1 of 3 batches"):
        main(["fit", "--config", str(path), "--ckpt_path", "last"])


def test_one_process_goes_on_from_the_end_of_an_epoch_of_two(tmp_path, monkeypatch):
    path = write_run("tagger", tmp_path, max_epochs=1)
    ended(start(tmp_path, "fit", "--config", str(path), "--trainer.strategy", "ddp", "--trainer.devices", "2"))
    monkeypatch.chdir(tmp_path)
    assert fit(path, "--ckpt_path", "last", "--trainer.max_epochs", "2")["epoch"] == 1
