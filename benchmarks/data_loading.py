"""What data modules give for one core, and what an H100 could take at most: how many cores keep it fed.

    convoy fetch voices-en voices-es brown
    python benchmarks/data_loading.py

Given: samples for a second of processor time of the process that makes them (``workers: 0``), median over rounds. Taken: the
arithmetic of a step of the network, forward and backward, in bf16, each operation bound by 989 TFLOP/s or by 3.35 TB/s of memory
traffic (NVIDIA's data sheet of the H100 SXM), whichever takes longer; kernels that are launched one by one, losses and optimisers
left out. No card reaches that, so fewer cores than are told here are enough.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import soundfile
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.layers import Convolution
from models.segmenter.network import UNet, UNetSettings
from models.separator.network import ConvTasNet, ConvTasNetSettings
from models.tagger.network import Letters, TextCNN, TextCNNSettings
from training.places import PlacedData
from training.segmenter.augmentation import Augmentation
from training.segmenter.data import SegmenterData, Split
from training.segmenter.patches import Drawing
from training.separator.data import MixtureList, SeparatorData, Stage
from training.separator.speech import Mixing
from training.tagger.data import Corpus, TaggerData

ROOT = Path(__file__).resolve().parent.parent
FLOPS, TRAFFIC = 989e12, 3.35e12  # a second, of an H100 SXM: dense bf16, and bytes of its memory
RATE, SECONDS = 8000, 4.0
PATCH = (116, 132, 132)  # the 3-D U-Net paper's, z first


class Roofline(TorchDispatchMode):
    """Seconds that the operations under it take at least: `with Roofline() as r: …; r.seconds`. On the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            count = flop_registry.get(function.overloadpacket)
            flops = count(*args, **(kwargs or {}), out_val=result) if count else 0
            moved = sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor))
            self.seconds += max(flops / FLOPS, moved / TRAFFIC)
        return result


def taken(samples: int, network: Callable[[], nn.Module], inputs: Callable[[], tuple[Tensor, ...]]) -> float:
    """Samples a second, at most; so many are in ``inputs``."""
    with torch.device("meta"):
        module, batch = network().to(torch.bfloat16), inputs()
        with Roofline() as roofline:
            module(*batch).sum().backward()
    return samples / roofline.seconds


def empty(*shape: int) -> Callable[[], tuple[Tensor]]:
    return lambda: (torch.empty(shape, dtype=torch.bfloat16),)


def tagger() -> nn.Module:
    """The network of ``tagger-en.yaml``."""
    three, five = Convolution(96, 3), Convolution(96, 5)
    stack = [Convolution(224, 3)] * 3
    return TextCNN(TextCNNSettings(198, 17, Letters(100, 32, (three, five)), 224, 448, stack, "softmax"))


def words(sentences: int = 170, length: int = 24, distinct: int = 1600) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, letters and places of 4,080 words, as many of them distinct as news text has."""
    return torch.empty(distinct, 198, dtype=torch.bfloat16), torch.ones(distinct, 16).long(), torch.ones(sentences, length).long()


def given(data: PlacedData, size: Callable[[Any], int], rounds: int, batches: int) -> float:
    """Samples for a second of processor time."""
    data.prepare_data()
    data.setup("fit")
    loader, rates = data.train_dataloader(), []
    for number in range(rounds + 1):  # the first fills caches
        order: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        order.set_epoch(number)
        started, samples = time.process_time(), 0
        for batch in itertools.islice(loader, batches):
            samples += size(batch)
        rates.append(samples / (time.process_time() - started))
    return statistics.median(rates[1:])


def separators(folder: Path) -> Iterator[tuple[str, PlacedData]]:
    speakers, mixtures = write_speech(folder)
    fixed, stages = MixtureList(str(mixtures)), [Stage(0, SECONDS, 4)]
    yield "separator, fixed mixtures, WAV", SeparatorData(fixed, fixed, stages=stages)
    ways: dict[str, dict[str, Any]] = {
        "decoded each time": {"keep": False},
        "keep": {},
        "cache": {"cache": str(folder / "cache")},
    }
    for way, options in ways.items():
        plain = Mixing(speeds=[1.0])
        yield f"separator, drawn, FLAC, {way}", SeparatorData(str(speakers), fixed, stages=stages, mixing=plain, **options)
    yield "separator, drawn, five speeds, keep", SeparatorData(str(speakers), fixed, stages=stages)


def write_speech(folder: Path) -> tuple[Path, Path]:
    """Recordings of ten seconds, of two speakers; and mixtures of them as WSJ0-2mix has them, in three folders."""
    voices = []
    for number, name in enumerate(("voices-en", "voices-es"), 1):
        files = sorted((ROOT / "data" / name).glob("*.wav"))
        if not files:
            sys.exit(f"no recordings at data/{name}: convoy fetch {name}")
        joined = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in files])
        voices.append(joined[: 50 * 10 * RATE].reshape(50, -1))
        for kind in (f"speakers/{name}", f"mixtures/s{number}", "mixtures/mix"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for place, samples in enumerate(voices[-1]):
            soundfile.write(folder / f"speakers/{name}/{place}.flac", samples, RATE)
            soundfile.write(folder / f"mixtures/s{number}/{place}.wav", samples / 2, RATE)
    for place, (first, second) in enumerate(zip(*voices, strict=True)):
        soundfile.write(folder / f"mixtures/mix/{place}.wav", first / 2 + second / 2, RATE)
    return folder / "speakers", folder / "mixtures"


def segmenters(folder: Path) -> Iterator[tuple[str, PlacedData]]:
    generator = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / "volumes" / kind).mkdir(parents=True)
    for number in range(3):
        values = generator.normal(0, 100, (200, 200, 200)).astype(np.float32)
        labels = np.zeros(values.shape, np.uint8)
        labels[60:140, 60:140, 60:140] = 1
        for kind, array in (("images", values), ("labels", labels)):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / "volumes" / kind / f"{number}.nii.gz")
    names = {"nothing changed": None, "defaults": Augmentation()}
    for name, augmentation in names.items():
        yield (
            f"segmenter, {name}",
            SegmenterData(
                str(folder / "volumes"),
                split=Split(folds=1),
                plan=str(folder / "plan.json"),
                cache=str(folder / "prepared"),
                drawing=Drawing(patch=PATCH),
                augmentation=augmentation,
                batch_size=1,
            ),
        )


def taggers() -> Iterator[tuple[str, PlacedData]]:
    if not (ROOT / "data" / "brown").is_dir():
        sys.exit("no corpus at data/brown: convoy fetch brown")
    corpus = Corpus(str(ROOT / "data/brown/ca[0-9][0-9]"), "slash", {"strip_suffixes": True}, {"labels": "pos"})
    yield "tagger, words", TaggerData([corpus], batch_tokens=4096)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20, help="in a round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples = round(RATE * SECONDS)
    needs = {
        "separator": taken(16, lambda: ConvTasNet(ConvTasNetSettings()), empty(16, samples)),
        "segmenter": taken(1, lambda: UNet(UNetSettings.paper(in_channels=1)), empty(1, 1, *PATCH)),
        "tagger": taken(170 * 24, tagger, words),
    }
    print(f"{'':<44}{'given a core':>14}{'taken by an H100':>18}{'cores':>8}")
    with tempfile.TemporaryDirectory() as name:
        for label, data in itertools.chain(separators(Path(name)), segmenters(Path(name)), taggers()):
            task = label.partition(",")[0]
            size = (lambda batch: int((batch.index > 0).sum())) if task == "tagger" else (lambda batch: len(batch[0]))
            rate, need = given(data, size, options.rounds, options.batches), needs[task]
            print(f"{label:<44}{rate:>12.1f}/s{need:>16.1f}/s{need / rate:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
