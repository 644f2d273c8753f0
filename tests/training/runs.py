"""Small runs of all three tasks as their users start them: a config each, the command line as a process, ways to end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import lightning
import torch
import yaml

from tests.scans import write_decathlon
from tests.training.corpora import LIGHTNING, config, conllu
from tests.training.separator.speakers import write_speakers
from training.cli import main

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = f"{LIGHTNING}.callbacks.ModelCheckpoint"
TASKS = ("tagger", "separator", "segmenter")


class Interrupt(lightning.Callback):
    """Sends a signal to the first process, or to all of the run's, when a batch is about to be learnt from."""

    def __init__(self, number: int, epoch: int, batch: int, everybody: bool = False) -> None:
        self.number, self.place, self.everybody = number, (epoch, batch), everybody

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.place and trainer.is_global_zero:
            os.killpg(0, self.number) if self.everybody else os.kill(os.getpid(), self.number)


class KeepGradients(lightning.Callback):
    """Writes down what the first step goes by."""

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.global_step == 0 and trainer.is_global_zero:
            torch.save({name: each.grad for name, each in module.named_parameters() if each.requires_grad}, "gradients.pt")


def write_run(task: str, folder: Path, **trainer: object) -> Path:
    """Data and config of a run of three epochs, with all that is drawn at random; last.ckpt is also written every 4 steps."""
    folder.mkdir(parents=True, exist_ok=True)
    path = {"tagger": _tagger, "separator": _separator, "segmenter": _segmenter}[task](folder)
    settings = yaml.safe_load(path.read_text("utf-8"))
    keeps = {"dirpath": "runs/x", "filename": "last", "enable_version_counter": False}
    often = {"class_path": CHECKPOINT, "init_args": keeps | {"every_n_train_steps": 4}}
    settings["trainer"]["callbacks"].append(often)
    settings["trainer"] |= {"max_epochs": 3, **trainer}
    path.write_text(yaml.safe_dump(settings), "utf-8")
    return path


def _tagger(folder: Path) -> Path:
    (folder / "train.conllu").write_text(conllu(40), "utf-8")
    (folder / "dev.conllu").write_text(conllu(15, 1), "utf-8")
    return config(folder, **{"model.decoder": "crf", "model.word_dropout": 0.2})


def _separator(folder: Path) -> Path:
    write_speakers(folder / "speech", 4)
    rows = ["speaker_0/0.flac,speaker_3/1.flac,1", "speaker_1/0.flac,speaker_2/1.flac,1", "speaker_1/1.flac,speaker_3/0.flac,2"]
    (folder / "list.csv").write_text("\n".join(["source_1,source_2,level", *rows]) + "\n", "utf-8")
    transformer = {"width": 16, "heads": 2, "chunk": 20, "dropout": 0.2, "feedforward": 16}
    network = {"filters": 32, "length": 40, "bottleneck": 16, "skip": 16, "hidden": 24, "blocks": 2, "repeats": 2}
    network |= {"transformer": transformer}
    data = {"train": "speech", "validation": {"path": "list.csv", "folder": "speech"}, "batches": 6, "workers": 1}
    data |= {"stages": [{"epoch": 0, "seconds": 0.25, "batch_size": 2}], "mixing": {"speakers": 2}}
    return _config(folder, "separator", "Separator", {"network": network, "every_repeat": 0.2}, data, "validation/si_snri")


def _segmenter(folder: Path) -> Path:
    write_decathlon(folder / "scans", 6, (12, 14, 10))
    data = {"train": "scans", "group": "scan", "split": {"folds": 3}, "plan": "plan.json", "cache": "cache", "batches": 6}
    data |= {"drawing": {"patch": [8, 8, 8]}, "augmentation": {"flips": "x"}, "annotation": {"keep": 3}}
    model = {"network": {"classes": 3, "channels": [8, 16], "heads": 1}, "optimizer": "muon"}
    return _config(folder, "segmenter", "Segmenter", model, data, "validation/dice")


def _config(folder: Path, task: str, name: str, model: dict, data: dict, figure: str) -> Path:
    """As the published configs have it: best and last, and averaged weights."""
    path = config(folder)
    settings = yaml.safe_load(path.read_text("utf-8"))
    best, last = settings["trainer"]["callbacks"]
    best["init_args"]["monitor"] = figure
    average = {"class_path": f"{LIGHTNING}.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}}
    settings["trainer"]["callbacks"] = [best, last, average]
    settings["model"] = {"class_path": f"training.{task}.module.{name}Module", "init_args": model}
    settings["data"] = {"class_path": f"training.{task}.data.{name}Data", "init_args": data}
    path.write_text(yaml.safe_dump(settings), "utf-8")
    return path


def start(folder: Path, *arguments: str, module: str = "training.cli", **variables: str) -> subprocess.Popen:
    """The command line in a process group of its own; warnings are errors there."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error", **variables}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen, code: int = 0) -> str:
    """What a process said; it must have ended with this code. Nothing of it is left behind."""
    try:
        said, _ = process.communicate(timeout=150)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code, f"{process.returncode}\n{said}"
    return said


def interrupted(path: Path, *more: str, number: int, code: int, **interrupt: object) -> str:
    """Run `fit` in a process that interrupts itself, see ``Interrupt``."""
    other = with_callback(path, "Interrupt", **interrupt, number=int(number))
    return ended(start(path.parent, "fit", "--config", str(other), *more), code)


def with_callback(path: Path, name: str, **settings: object) -> Path:
    """A config with one more callback, of this module."""
    config = yaml.safe_load(path.read_text("utf-8"))
    config["trainer"]["callbacks"].append({"class_path": f"{__name__}.{name}", "init_args": settings})
    other = path.with_name("more.yaml")
    other.write_text(yaml.safe_dump(config), "utf-8")
    return other


def fit(path: Path, *more: str) -> dict:
    """Run `fit` here, and load last.ckpt."""
    main(["fit", "--config", str(path), *more])
    return torch.load(path.parent / "runs/x/last.ckpt", weights_only=True)


def assert_same(one: dict, other: dict) -> None:
    """The same weights, averages, moments of the optimiser and rates, bit for bit, after as many steps."""
    assert one["global_step"] == other["global_step"]
    assert one["lr_schedulers"] == other["lr_schedulers"]
    for part in ("state_dict", "current_model_state"):
        assert (part in one) == (part in other)
        for name, tensor in one.get(part, {}).items():
            assert torch.equal(tensor, other[part][name]), f"{part}: {name}"
    for mine, yours in zip(_leaves(one["optimizer_states"]), _leaves(other["optimizer_states"]), strict=True):
        assert torch.equal(mine, yours)


def _leaves(tree) -> list[torch.Tensor]:
    if isinstance(tree, dict):
        tree = [tree[key] for key in sorted(tree, key=str)]
    if isinstance(tree, list | tuple):
        return [leaf for each in tree for leaf in _leaves(each)]
    return [tree] if isinstance(tree, torch.Tensor) else []
