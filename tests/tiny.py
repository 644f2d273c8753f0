"""Small trained-looking bundles for tests: real networks of random weights, exported by the real code."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from models.bundle import Bundle, open_folder, write_bundle
from models.layers import Convolution
from models.segmenter.network import UNet, UNetSettings
from models.segmenter.plan import Plan
from models.separator.network import ConvTasNet, ConvTasNetSettings
from models.tagger.labels import Scheme
from training.export import export_bundle, rounded
from training.tagger.data import TaggerTask
from training.tagger.module import TaggerModule
from training.tagger.vocabulary import Table, Vocabulary

ENGLISH = ["the", "a", "lives", "in", "London", "Ada", "Lovelace", "was", "here", "."]
CHINESE = list("我爱北京天安门上海的人在中国生活。")
LEXICON = ["北京", "上海", "天安门", "北京天安门", "海的"]


_exported = tempfile.TemporaryDirectory(prefix="convoy-tiny-", ignore_cleanup_errors=True)


def tiny_separator_bundle(folder: Path, causal: bool = False, name: str | None = None) -> Path:
    """A separator of two speakers with random weights in ``folder/name``: 8 kHz, windows of one second.

    The ONNX is made once in a process, which takes some seconds.
    """
    name = name or ("tiny-separator-causal" if causal else "tiny-separator")
    template = open_folder(_tiny_separator(causal))
    files = {file: template.path / file for file in template.spec.files}
    return write_bundle(folder / name, template.spec.model_copy(update={"name": name}), files)


@cache
def _tiny_separator(causal: bool) -> Path:
    folder = Path(_exported.name)
    network = tiny_separator_network(causal)
    about = {"settings": asdict(network.settings), "sample_rate": 8000, "window_seconds": 1.0, "overlap_seconds": 0.25}
    weights = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"task": "separator", "separator": about, "state_dict": weights}, folder / "tiny.ckpt")
    return export_bundle(folder / "tiny.ckpt", folder / f"causal-{causal}")


def tiny_separator_network(causal: bool) -> ConvTasNet:
    """The network of random weights, numbers of 16 bits, that such a bundle is made of; the same at every call."""
    torch.manual_seed(3)
    settings = ConvTasNetSettings(
        filters=32,
        length=20 if causal else 16,
        bottleneck=16,
        skip=16,
        hidden=24,
        blocks=3,
        repeats=2,
        norm="cLN" if causal else "gLN",
        causal=causal,
        mixture_consistency=not causal,
    )
    network = ConvTasNet(settings).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:  # norms and biases as a trained network has them, not all ones and zeros
                parameter.add_(0.1 * torch.randn_like(parameter))
    return rounded(network)


def tiny_segmenter_bundle(folder: Path, name: str = "tiny-segmenter", **plan: Any) -> Path:
    """A segmenter of three classes in ``folder/name`` that tells dark, middle and bright voxels apart. A voxel's scores follow
    from its own value, so that answers are known. ``plan`` changes its plan.
    """
    template = open_folder(_tiny_segmenter())
    files = {file: template.path / file for file in template.spec.files}
    return write_bundle(folder / name, template.spec.model_copy(update={"name": name, **_planned(template, plan)}), files)


def _planned(template: Bundle, plan: dict[str, Any]) -> dict[str, Any]:
    return {"preprocessing": {**template.spec.preprocessing, **plan}}


@cache
def _tiny_segmenter() -> Path:
    folder = Path(_exported.name)
    network = tiny_segmenter_network()
    plan = Plan(classes=["background", "middle", "bright"], spacing=(1.0, 1.0, 1.0), window=(8, 8, 8))
    about = {"settings": asdict(network.settings), "plan": plan.model_dump(mode="json")}
    weights = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"task": "segmenter", "segmenter": about, "state_dict": weights}, folder / "tiny-segmenter.ckpt")
    return export_bundle(folder / "tiny-segmenter.ckpt", folder / "segmenter")


def tiny_segmenter_network() -> UNet:
    """Scores 0, 4·value − 1 and 8·value − 7 of each voxel's normalised value: class 1 from 0.25 on, 2 from 1.5 on."""
    network = UNet(UNetSettings(classes=3, channels=(4, 4), norm="none", activation="leaky_relu"))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        # Channels 0 and 1 carry the value's positive and negative part through the finest depth's four convolutions.
        middle = (1, 1, 1)
        first, second = (block.convolution for block in (network.analysis[0].first, network.analysis[0].second))
        third, fourth = (block.convolution for block in (network.synthesis["0_1"].first, network.synthesis["0_1"].second))
        first.weight[0, 0][middle], first.weight[1, 0][middle] = 1.0, -1.0
        for channel in range(2):
            second.weight[channel, channel][middle] = 1.0
            third.weight[channel, 4 + channel][middle] = 1.0  # what was raised comes before the skip
            fourth.weight[channel, channel][middle] = 1.0
        head = network.heads[0]
        head.weight[1, :2, 0, 0, 0] = torch.tensor([4.0, -4.0])
        head.weight[2, :2, 0, 0, 0] = torch.tensor([8.0, -8.0])
        head.bias.copy_(torch.tensor([0.0, -1.0, -7.0]))
    return network.eval()


def tiny_tagger_bundle(folder: Path, language: str, name: str | None = None) -> Path:
    """A tagger of random weights in ``folder/name``: English labels with softmax, or Chinese BMES labels with a CRF and a
    lexicon.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = name or f"tiny-{language}"
    module = tiny_tagger_module(language)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    path = folder / f"tiny-{language}.ckpt"
    torch.save(checkpoint, path)
    card = folder / f"tiny-{language}.yaml"
    card.write_text(
        f"name: {name}\nlanguages: [{language}]\nlicence: Apache-2.0\nsummary: For tests.\n"
        "data: []\nrecipe: tests/tiny.py\nlimits: Its weights are random.\n",
        "utf-8",
    )
    bundle = export_bundle(path, folder / name, card=card)
    path.unlink()
    card.unlink()
    return bundle


def tiny_tagger_module(language: str) -> TaggerModule:
    """The network of random weights, numbers of 16 bits, that such a bundle is made of; the same at every call."""
    torch.manual_seed(0)
    english = language == "en"
    if english:
        tables = [Table("words", ["word"], ENGLISH, 8, True)]
        labels = ["DET", "NOUN", "PROPN", "PUNCT", "VERB"]
        vocabulary = Vocabulary({"labels": labels}, "".join(sorted(set("".join(ENGLISH)))), 8, tables, ENGLISH)
        task = TaggerTask("upos", Scheme.NONE, False, False)
    else:
        tables = [
            Table("characters", ["word"], CHINESE, 8, True),
            Table("bigrams", ["left_bigram", "right_bigram"], ["北京", "上海"], 4, True),
            Table("codes", ["lexicon"], ["-", "b2", "e2", "b25", "b3m5", "e35", "b2e2"], 4, True),
        ]
        labels = [f"{place}-{part}" for part in ("n", "v", "w") for place in "BMES"]
        vocabulary = Vocabulary({"labels": labels}, None, 0, tables, ["北京", "上海"], LEXICON)
        task = TaggerTask("pos", Scheme.BMES, True, True)
    module = TaggerModule(
        width=16,
        stack=[Convolution(16, activation="glu"), Convolution(16, dilation=2)],
        letter_convolutions=[Convolution(8)],
        letter_embedding=4,
        decoder="softmax" if english else "crf",
    )
    module.build(vocabulary, [None] * len(tables), task)
    return module.eval()
