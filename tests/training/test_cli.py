"""Real runs of the command line on small files: what `convoy fit` does, from the first step to the bundle."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import lightning
import pytest
import torch

from models.errors import ConfigError
from models.tagger import Tagger
from tests.training.corpora import columns, config, conllu, slash
from training import cli
from training.cli import ConvoyCLI, main
from training.export import export_bundle
from training.tagger.module import TaggerModule

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "train.conllu").write_text(conllu(40), "utf-8")
    (tmp_path / "dev.conllu").write_text(conllu(15, 1), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Recorder(lightning.Callback):
    """Writes down losses, rates and batches."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.batches: list[tuple] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.batches.append((trainer.current_epoch, batch.index.shape, batch.index.sum().item()))


class Stop(lightning.Callback):
    """Ends the run as Ctrl+C does, after an epoch."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == self.epochs:
            raise KeyboardInterrupt


@pytest.fixture
def watch(monkeypatch):
    """Add callbacks to the trainer that the command line makes."""

    def add(*callbacks):
        class Watched(ConvoyCLI):
            def instantiate_trainer(self, **settings):
                trainer = super().instantiate_trainer(**settings)
                trainer.callbacks[:0] = callbacks
                return trainer

        monkeypatch.setattr(cli, "ConvoyCLI", Watched)

    return add


def fit(path: Path, *more: str):
    return main(["fit", "--config", str(path), *more])


# ── learning ────────────────────────────────────────────────────────────────────────────────────────────────────────

LEARNERS = {
    "conllu-softmax": {},
    "columns-crf": {
        "data.train": [{"path": "train.conll", "labels": {"labels": "label"}, "scheme": "IOB2"}],
        "data.validation": {"path": "dev.conll", "labels": {"labels": "label"}, "scheme": "IOB2"},
        "data.scheme": "BIOES",
        "model.decoder": "crf",
    },
    "slash-segment": {
        "data.train": [{"path": "train.txt", "format": "slash", "labels": {"labels": "pos"}}],
        "data.validation": None,
        "data.contiguous": True,
        "data.scheme": "BMES",
        "data.segment": True,
        "data.letters": 0,
        "data.tables": [{"name": "pairs", "views": ["word", "left_bigram"], "dimensions": 8, "trainable": True}],
        "model.decoder": "crf",
    },
}


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_a_run_learns_and_its_bundle_tags(folder, watch, name):
    (folder / "train.conll").write_text(columns(60), "utf-8")
    (folder / "dev.conll").write_text(columns(15, 1), "utf-8")
    (folder / "train.txt").write_text(slash(80), "utf-8")
    recorder = Recorder()
    watch(recorder)
    command = fit(config(folder, **{"trainer.max_epochs": 2, **LEARNERS[name]}))
    assert sum(recorder.losses[-3:]) < 0.8 * sum(recorder.losses[:3])
    assert command.trainer.callback_metrics["validation/accuracy"] > 0.5
    assert {"best.ckpt", "last.ckpt"} <= {path.name for path in (folder / "runs/x").iterdir()}
    assert list((folder / "runs").rglob("events.out.tfevents.*"))
    # The bundle labels as the module does.
    saved = torch.load(folder / "runs/x/last.ckpt", weights_only=True)
    module, tagger = (
        TaggerModule.from_checkpoint(saved),
        Tagger.load(export_bundle(folder / "runs/x/last.ckpt", folder / "bundle")),
    )
    data = command.datamodule
    items = range(len(data.parts["validation"]))
    with torch.no_grad():
        expected = module.predict_step(data.datasets["validation"].collate(items), 0)
    found = tagger.tag_tokens([sentence.tokens for sentence in data.parts["validation"]])
    # Vectors are rounded to eight bits in the bundle: a label may tip over here and there.
    pairs = [(a, b) for one, other in zip(expected, found, strict=True) for a, (b, _) in zip(one, other, strict=True)]
    assert sum(a == b for a, b in pairs) >= 0.99 * len(pairs)
    assert tagger.spec.parity.max_abs_difference < 1e-3


def test_validate_test_and_predict_read_a_checkpoint(folder):
    path = config(folder, **{"trainer.max_epochs": 1})
    accuracy = fit(path).trainer.callback_metrics["validation/accuracy"]
    saved = torch.load(folder / "runs/x/last.ckpt", weights_only=True)
    assert saved["task"] == "tagger"
    assert json.loads(json.dumps(saved["tagger"])) == saved["tagger"], "what it says of the tagger is plain"
    for part in ("validate", "test"):
        command = main([part, "--config", str(path), "--ckpt_path", "runs/x/last.ckpt"])
        (measured,) = [value for name, value in command.trainer.callback_metrics.items() if name.endswith("/accuracy")]
        assert measured == accuracy
    main(["predict", "--config", str(path), "--ckpt_path", "runs/x/last.ckpt"])


def test_batches_differ_from_epoch_to_epoch(folder, watch):
    recorder = Recorder()
    watch(recorder)
    fit(config(folder, **{"trainer.max_epochs": 2}))
    epochs = [[batch[1:] for batch in recorder.batches if batch[0] == epoch] for epoch in (0, 1)]
    assert len(epochs[0]) == len(epochs[1]) > 2
    assert epochs[0] != epochs[1]


# ── going on ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_resumed_run_ends_where_an_uninterrupted_one_ends(folder, watch):
    path = config(folder, **{"model.decoder": "crf"})
    whole = Recorder()
    watch(whole)
    fit(path)
    straight = torch.load(folder / "runs/x/last.ckpt", weights_only=True)
    (folder / "runs").rename(folder / "first")

    before, after = Recorder(), Recorder()
    watch(Stop(2), before)
    with pytest.raises(SystemExit):
        fit(path)
    watch(after)
    fit(path, "--ckpt_path", "last")
    resumed = torch.load(folder / "runs/x/last.ckpt", weights_only=True)

    assert before.losses + after.losses == whole.losses
    assert before.rates + after.rates == whole.rates
    assert before.batches + after.batches == whole.batches
    assert resumed["lr_schedulers"] == straight["lr_schedulers"]
    assert resumed["global_step"] == straight["global_step"]
    assert resumed["state_dict"].keys() == straight["state_dict"].keys()
    for name, tensor in straight["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], tensor), name


def test_early_stopping(folder):
    stop = {"monitor": "validation/accuracy", "mode": "max", "patience": 1, "min_delta": 1.0}
    path = config(
        folder, **{"trainer.callbacks": [{"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": stop}]}
    )
    assert fit(path).trainer.current_epoch == 2


# ── two processes, and a quiet terminal ─────────────────────────────────────────────────────────────────────────────


def run(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-m", "training.cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_two_processes_train_as_one(folder):
    (folder / "extra.txt").write_text(slash(20, 2, {"the": "at", "cat": "nn"}, "./."), "utf-8")
    train = [{"path": "train.conllu", "labels": {"labels": "upos", "xpos": "xpos"}}]
    train += [{"path": "extra.txt", "format": "slash", "labels": {"brown": "pos"}, "share": 0.5}]
    path = config(folder, **{"trainer.max_epochs": 2, "data.train": train, "model.decoder": "crf"})
    said = run(folder, "fit", "--config", str(path), "--trainer.strategy", "ddp", "--trainer.devices", "2")
    assert "MEMBER: 2/2" in said
    assert "gloo" in said
    command = main(["validate", "--config", str(path), "--ckpt_path", "runs/x/last.ckpt"])
    alone = command.trainer.callback_metrics["validation/accuracy"].item()
    states = torch.load("runs/x/last.ckpt", weights_only=True)["callbacks"]
    (checkpoints,) = [state for name, state in states.items() if "validation/accuracy" in name]
    assert checkpoints["current_score"].item() == pytest.approx(alone, abs=1e-7)


def test_a_run_says_nothing_beside_the_point(folder):
    """Warnings are errors in the process that runs."""
    said = run(folder, "fit", "--config", str(config(folder, **{"trainer.max_epochs": 1})))
    assert not re.search(r"litlogger|treespec|workers|deprecated|Warning", said, re.IGNORECASE)


def test_the_command_line_is_left_as_it_was(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["convoy", "fit", "--config", "other.yaml"])
    fit(config(folder), "--trainer.fast_dev_run", "1")
    assert sys.argv == ["convoy", "fit", "--config", "other.yaml"]


def test_a_wrong_setting_is_named(folder, capsys):
    for wrong, value in (("model.widht", 3), ("data.tabels", []), ("model.decoder", "viterbi"), ("trainer.max_epoch", 3)):
        with pytest.raises(SystemExit) as end:
            fit(config(folder, **{wrong: value}))
        assert end.value.code == 2
        assert (value if wrong == "model.decoder" else wrong.split(".")[1]) in capsys.readouterr().err


def test_missing_vectors_say_how_to_make_them(folder):
    path = config(folder, **{"data.tables": [{"name": "words", "source": "vectors/none"}]})
    with pytest.raises(ConfigError, match=r"vectors/none.*convoy embed"):
        fit(path)


@pytest.mark.parametrize(("wish", "count"), [("3", 3), ("", 2), ("4,2", 2), ("0", 2)])
def test_threads(monkeypatch, wish, count):
    chosen = []
    monkeypatch.setenv("OMP_NUM_THREADS", wish)
    monkeypatch.setattr(cli, "threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(cli, "ConvoyCLI", lambda **_: None)
    main(["fit"])
    assert chosen == [count]
