"""What settings of training cost or gain: one step's processor time relative to the plain one, in turns, on one thread.

    python benchmarks/training_settings.py separator --rounds 7
    python benchmarks/training_settings.py segmenter

A step is forward, backward and Adam, on noise: the separator of ``separator-2speakers.yaml`` on 3 × 2 s, a U-Net of 16, 32, 64
and 128 channels on 2 × 32×48×32 voxels; ``accumulate`` is one patch four times in place of four at once.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.segmenter.network import UNetSettings
from models.separator.network import ConvTasNetSettings
from training.segmenter.module import SegmenterModule
from training.separator.losses import permutation_invariant
from training.separator.module import SeparatorModule

BOTH: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16": {"bf16": True},
    "compile": {"compile": True},
    "compile, bf16": {"compile": True, "bf16": True},
}
SETTINGS = {
    "separator": BOTH,
    "segmenter": BOTH
    | {
        "channels_last": {"channels_last": True},
        "channels_last, bf16": {"channels_last": True, "bf16": True},
        "recompute": {"recompute": True},
        "four at once": {"batch": 4},
        "accumulate": {"batch": 1, "times": 4},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("task", choices=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    steps = {name: step_of(given.task, **settings) for name, settings in SETTINGS[given.task].items()}
    for step in steps.values():
        step()
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(given.rounds):
        for name, step in steps.items():
            started = time.process_time()
            step()
            times[name].append(time.process_time() - started)
    plain = statistics.median(times["plain"])
    for name, taken in times.items():
        print(f"{name:<22}{statistics.median(taken):>8.3f} s{statistics.median(taken) / plain:>8.2f}")


def step_of(task: str, *, bf16: bool = False, batch: int = 0, times: int = 1, **settings: Any) -> Callable[[], None]:
    torch.manual_seed(0)
    module, loss = (separator if task == "separator" else segmenter)(batch, **settings)
    optimizer = torch.optim.Adam(module.parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        for _ in range(times):
            with torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else contextlib.nullcontext():
                found = loss() / times
            found.backward()
        optimizer.step()

    return step


def segmenter(batch: int, **settings: Any) -> tuple[SegmenterModule, Callable[[], torch.Tensor]]:
    module = SegmenterModule(UNetSettings(classes=3, channels=(16, 32, 64, 128), heads=2), **settings)
    volumes, labels = torch.randn(batch or 2, 1, 32, 48, 32), torch.randint(0, 3, (batch or 2, 32, 48, 32))
    return module, lambda: module.loss([scores.float() for scores in module.run(volumes)], labels)


def separator(batch: int, **settings: Any) -> tuple[SeparatorModule, Callable[[], torch.Tensor]]:
    network = ConvTasNetSettings(
        sources=2, filters=512, length=128, hop=64, bottleneck=128, skip=64, hidden=256, blocks=7, repeats=2,
        norm="gLN", mask="sigmoid", encoder="relu",
    )  # fmt: skip
    module = SeparatorModule(network, every_repeat=0.2, **settings)
    mixtures, voices = 0.1 * torch.randn(batch or 3, 16_000), 0.1 * torch.randn(batch or 3, 2, 16_000)

    def loss() -> torch.Tensor:
        losses = [permutation_invariant(module.measure, each.float(), voices)[0].mean() for each in module.run(mixtures)]
        return torch.stack(losses).sum()

    return module, loss


if __name__ == "__main__":
    main()
