"""Every published config parses and trains a step, on small data at the places it names; every card is complete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from tests.training.corpora import write_data
from training.cli import main
from training.export import read_card

CONFIGS = Path(__file__).resolve().parents[2] / "training" / "configs"
CARDS = sorted(CONFIGS.glob("*.card.yaml"))
PUBLISHED = {
    *("tagger-en", "tagger-zh", "separator-2speakers", "separator-2speakers-causal"),
    *("segmenter-hippocampus", "segmenter-flyem-boundaries"),
}
COMPLETE = sorted(set(CONFIGS.glob("*.yaml")) - set(CARDS))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    write_data(folder)
    return folder


@pytest.mark.parametrize("path", COMPLETE, ids=lambda path: path.stem)
def test_a_config_trains_and_keeps_the_best_and_the_last(path, data, monkeypatch):
    """At a rate of zero no epoch is better than the first: the last is kept all the same, to go on from."""
    monkeypatch.chdir(data)
    # typing caches unions by equality: where a module before us made `float | int | None`, Lightning's `int | float | None` is
    # that one, and jsonargparse reads 1 batch as all of them.
    monkeypatch.setitem(Trainer.__init__.__annotations__, "limit_train_batches", int)
    trainer = {
        "max_epochs": 2,
        "limit_train_batches": 1,
        "check_val_every_n_epoch": 1,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
    }
    settings = [part for name, value in trainer.items() for part in (f"--trainer.{name}", str(value))]
    settings += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    if path.stem.startswith("separator"):  # the stages in its file parse too, but take a minute at the paper's size
        stages = yaml.safe_load(path.read_text("utf-8"))["data"]["init_args"]["stages"]
        settings += ["--data.init_args.stages", json.dumps([stage | {"seconds": 0.5, "batch_size": 2} for stage in stages])]
    command = main(["fit", "--config", str(path), *settings, "--model.init_args.learning_rate", "0.0"])
    losses = [value for name, value in command.trainer.callback_metrics.items() if name.startswith("train/")]
    assert losses
    assert all(loss.isfinite() for loss in losses)
    monitored = [callback.monitor for callback in command.trainer.callbacks if getattr(callback, "monitor", None)]
    assert not set(monitored) - set(command.trainer.callback_metrics)
    # The names that the heads of the configs and the recipes of the cards give to `convoy export`.
    best, last = (torch.load(f"runs/{path.stem}/{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert best["global_step"] <= last["global_step"] == 2  # the same weights may seem better by a rounding of their figure
    assert list(Path("runs", path.stem).rglob("events.out.tfevents.*"))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_card_is_complete(path):
    card = read_card(path)
    assert card.name == path.name.removesuffix(".card.yaml")
    assert bool(card.languages) is not card.name.startswith("segmenter")
    assert card.data
    assert f"training/configs/{card.name}.yaml" in card.recipe


def test_each_published_model_has_config_and_card():
    cards = {path.name.removesuffix(".card.yaml") for path in CARDS}
    assert {path.stem for path in COMPLETE} >= cards >= PUBLISHED
