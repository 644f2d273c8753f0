from __future__ import annotations

import csv

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from models.errors import ConfigError
from models.separator.network import ConvTasNetSettings
from models.separator.transformer import DualPathSettings
from tests.tiny import tiny_separator_bundle, tiny_separator_network
from tests.training.separator.speakers import write_speakers
from training.separator.data import Batch, MixtureList, SeparatorData, Stage
from training.separator.filterbank import gammatones, synthesis
from training.separator.losses import si_snr
from training.separator.module import SeparatorModule, spectrogram
from training.separator.speech import Mixing

# What Lightning is told by torch, and what it says of small loaders; `training.cli` silences both.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]
SMALL = {"filters": 32, "length": 40, "bottleneck": 16, "skip": 16, "hidden": 24, "blocks": 3, "repeats": 2}


@pytest.fixture
def data(tmp_path):
    write_speakers(tmp_path, 4)
    with (tmp_path / "list.csv").open("w", newline="") as stream:
        rows = [[f"speaker_{first}/0.flac", f"speaker_{second}/1.flac", "1"] for first, second in ((0, 3), (1, 2))]
        csv.writer(stream).writerows([["source_1", "source_2", "level"], *rows])

    def make():
        validation = MixtureList(str(tmp_path / "list.csv"))
        return SeparatorData(str(tmp_path), validation, mixing=Mixing(speeds=[1.0]), stages=[Stage(0, 0.5, 4)], batches=10)

    return make


def fit(data, module, folder, epochs, checkpoint=None, average=None):
    keep = ModelCheckpoint(folder, "last", enable_version_counter=False)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[keep, *([average] if average else [])],
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    return trainer, folder / "last.ckpt"


@pytest.mark.parametrize(
    "arguments",
    [
        {"network": ConvTasNetSettings(**SMALL, mixture_consistency=True), "every_repeat": 0.2, "learning_rate": 1e-2},
        {"network": ConvTasNetSettings(**SMALL, norm="cLN", causal=True), "optimizer": "muon"},
        {"network": ConvTasNetSettings(**SMALL, transformer=DualPathSettings(16, 2, 16, 1, 1, 1, 20)), "loss": {"snr": 1.0}},
    ],
)
def test_training_separates_better_than_nothing_and_comes_back_from_its_checkpoint(data, tmp_path, arguments):
    torch.manual_seed(0)
    module = SeparatorModule(**{"learning_rate": 5e-3} | arguments)
    trainer, path = fit(data(), module, tmp_path / "run", 25)
    improvement = float(trainer.callback_metrics["validation/si_snri"])
    assert improvement > 0.5
    saved = torch.load(path, weights_only=True)
    assert saved["task"] == "separator"
    assert saved["separator"]["sample_rate"] == 8000
    again = SeparatorModule.from_checkpoint(saved)
    mixture = torch.randn(1, 500)
    with torch.no_grad():
        assert torch.equal(again(mixture), module.eval()(mixture))


def test_filters_begin_as_gammatones_or_everything_as_a_bundle(tmp_path):
    module = SeparatorModule(ConvTasNetSettings(**SMALL, encoder="relu"), gammatone=8000)
    assert torch.equal(module.network.encoder, gammatones(32, 40, 8000))
    assert torch.equal(module.network.decoder, synthesis(module.network.encoder.detach(), 20))
    trained = tiny_separator_network(causal=False)
    started = SeparatorModule(trained.settings, gammatone=8000, start=str(tiny_separator_bundle(tmp_path)))
    assert torch.equal(started.network.encoder, trained.encoder.half().float())


@pytest.mark.parametrize("windows", [{"window_seconds": 1.0, "overlap_seconds": 5.0}, {"window_seconds": 0.0}])
def test_windows_that_cannot_be_served_are_refused_before_training(windows):
    with pytest.raises(ConfigError, match=r"window_seconds.*cannot be served"):
        SeparatorModule(ConvTasNetSettings(**SMALL), **windows)


def test_what_is_validated_and_kept_is_the_average_of_the_weights(data, tmp_path):
    torch.manual_seed(0)
    module = SeparatorModule(ConvTasNetSettings(**SMALL), learning_rate=1e-2, schedule="constant")
    trainer, path = fit(data(), module, tmp_path / "run", 1, average=EMAWeightAveraging(decay=0.9))
    saved = torch.load(path, weights_only=True)
    kept = SeparatorModule.from_checkpoint(saved)
    current = saved["current_model_state"]
    assert any(not torch.equal(current[name], value) for name, value in saved["state_dict"].items())
    kept.sums.clear()
    with torch.no_grad():
        for batch in data().val_dataloader():
            kept._judge("validation", batch)
    total, count = kept.sums["validation"].tolist()
    assert trainer.callback_metrics["validation/si_snri"] == pytest.approx(total / count, abs=1e-4)


def test_a_resumed_run_ends_as_an_uninterrupted_one(data, tmp_path):
    def module():
        torch.manual_seed(0)
        return SeparatorModule(ConvTasNetSettings(**SMALL), schedule="constant")

    straight, half, resumed = module(), module(), module()
    fit(data(), straight, tmp_path / "straight", 2)
    _, path = fit(data(), half, tmp_path / "half", 1)
    fit(data(), resumed, tmp_path / "resumed", 2, path)
    assert all(torch.equal(one, other) for one, other in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_the_improvement_is_over_the_mixture_itself():
    module = SeparatorModule(ConvTasNetSettings(**SMALL))
    voices = torch.randn(1, 2, 800)
    mixture = voices.sum(1)
    module.network.forward = lambda _: voices.flip(1) + 0.01 * torch.ones_like(voices).cumsum(2).sin()
    module._judge("validation", Batch(mixture, voices))
    total, count = module.sums["validation"].tolist()
    separated = -si_snr(module.network.forward(mixture).flip(1), voices).mean()
    mixed = -si_snr(mixture.unsqueeze(1), voices).mean()
    assert count == 1
    assert total == pytest.approx(float(separated - mixed), abs=1e-2)


def test_a_tone_is_one_line_of_the_spectrogram():
    time = torch.arange(8000) / 8000
    picture = spectrogram(torch.sin(2 * torch.pi * 1000 * time))
    assert picture.shape[0] == 129
    assert 0 <= float(picture.min()) <= float(picture.max()) <= 1
    assert (picture[:, 5:-5].argmax(0) == 128 - 32).all()  # 1000 Hz is bin 32 of 256
