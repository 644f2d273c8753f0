"""MONAI's sliding windows and ours, with the same network, weights and windows, on the same cores, in one run.

    python benchmarks/segmenter_speed.py

Two networks of 96³ windows and 5 classes: our U-Net of (32, 64, 128, 256) channels (5.6 M parameters), and MONAI's BasicUNet of
its own widths (5.75 M). Both first learn, for a moment, to tell the classes of a made-up volume apart, for random weights leave
most voxels undecided. MONAI's side is its ``SlidingWindowInferer`` over torch, in f32; ours is ``score_strips`` over the exported
network, in f32 and, where the processor has it, in bf16, the classes of each strip decided as it comes. Overlap a quarter,
Gaussian weights. Labels are compared with MONAI's.

Time: a cube, from values to labels. The programs take turns in processes that stay loaded; the others wait meanwhile. Memory: the
peak of a process that labels 512×512×400 voxels from a file of 16-bit integers. A whole pass of that takes MONAI about an hour,
so there only 2 of 50 windows go through the network, and the others get a copy of the last scores: all buffers are filled, and
what the network needs at its widest is counted. MONAI lives in an environment of its own, which the first run makes in
``benchmarks/.venv-monai`` as asteroid_parity.py makes its own. Prints tables, then JSON.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from worker import ROOT, Worker, answer, peer_python

ENVIRONMENT = ROOT / "benchmarks" / ".venv-monai"
PACKAGES = ["monai==1.6.1"]
NETWORKS = ("unet", "basicunet")
WINDOW, OVERLAP, CLASSES = 96, 0.25, 5
SCAN = (400, 512, 512)  # z, y, x
EVERY = 50  # two of so many windows of the scan go through the network
UNIT = 256  # of the integers in the scan's file

Label = Callable[..., Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="default: both")
    parser.add_argument("--size", type=int, default=192, help="voxels of each side of the cube that is timed (default: 192)")
    parser.add_argument("--rounds", type=int, default=3, help="timed passes of each (default: 3)")
    parser.add_argument("--steps", type=int, default=100, help="batches that the networks learn from (default: 100)")
    parser.add_argument("--cores", type=int, default=2, help="cores all may use (default: 2)")
    parser.add_argument("--no-memory", action="store_true", help="time only")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--every", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.folder, arguments.every)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    cores = sorted(os.sched_getaffinity(0))[: arguments.cores]
    python = monai_python()
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for network in arguments.networks:
            command = [python, "-W", "ignore", __file__, "--folder", name, "--worker", f"learn-{network}"]
            run = Worker(command, cores)
            learned = {"seconds": run.turn(arguments.steps)}
            run.close()
            ours = ["f32", "bf16"] if (folder / f"{network}.bf16").exists() else ["f32"]
            commands = {
                side: [python if side == "monai" else sys.executable, *command[1:-1], f"{side}-{network}"]
                for side in ("monai", *ours)
            }
            figures[network] = {"learned": learned, "time": measure(commands, cores, arguments, folder)}
            if not arguments.no_memory:
                figures[network]["memory"] = memory(commands, cores, folder)
    print(json.dumps(figures, indent=2))


def monai_python() -> str:
    """The interpreter of MONAI's environment, made if it is not there."""
    return peer_python(ENVIRONMENT, PACKAGES)


def measure(commands: dict[str, list[str]], cores: list[int], arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds and labels of a cube."""
    workers = {side: Worker(command, cores) for side, command in commands.items()}
    taken: dict[str, list[float]] = {side: [] for side in workers}
    try:
        for worker in workers.values():
            worker.turn(WINDOW)  # not counted
        for number in range(arguments.rounds):  # who goes first changes with every round
            for side, worker in list(workers.items())[:: 1 if number % 2 else -1]:
                taken[side].append(worker.turn(arguments.size))
        network = commands["monai"][-1].removeprefix("monai-")
        labels = {side: np.load(folder / f"{side}-{network}.npy") for side in workers}
    finally:
        for worker in workers.values():
            worker.close()
    _, truth = scan((arguments.size,) * 3)
    figures: dict[str, Any] = {}
    print(f"\n{network}, {arguments.size}³ voxels{'':9}", end="")
    print(f"{'voxels per second':>20}{'times':>8}{'lowest':>8}{'highest':>8}{'agreement':>12}")
    for side, each in taken.items():
        ratios = [theirs / own for theirs, own in zip(taken["monai"], each, strict=True)]
        figures[side] = {
            "seconds": each,
            "voxels_per_second": arguments.size**3 / statistics.median(each),
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
            "agreement": float((labels[side] == labels["monai"]).mean()),
            "right": float((labels[side] == truth).mean()),
        }
        speed, ratio, agreement = (figures[side][key] for key in ("voxels_per_second", "ratio", "agreement"))
        print(f"{side:<30}{speed:>20,.0f}{ratio:>8.2f}{min(ratios):>8.2f}{max(ratios):>8.2f}{agreement:>12.4%}")
    return figures


def memory(commands: dict[str, list[str]], cores: list[int], folder: Path) -> dict[str, Any]:
    """Peak MiB over the scan, and MiB with the network loaded."""
    if not (folder / "scan.npy").exists():
        np.save(folder / "scan.npy", np.rint(scan(SCAN)[0] * UNIT).astype(np.int16))
    figures: dict[str, Any] = {}
    print(f"\npeak memory, {'×'.join(map(str, SCAN))}{'':10}{'MiB':>10}{'loaded':>10}{'of MONAI':>10}")
    for side, command in commands.items():
        worker = Worker([*command, "--every", str(EVERY)], cores)
        peak = worker.turn("scan")
        worker.close()
        figures[side] = {
            "mib": peak,
            "loaded_mib": float(worker.ready),
            "share": peak / figures.get("monai", {"mib": peak})["mib"],
        }
        print(f"{side:<33}{peak:>10.0f}{float(worker.ready):>10.0f}{figures[side]['share']:>10.1%}")
    return figures


def work(name: str, folder: Path, every: int) -> None:
    """A side of a network: what it is sent is a size, answered by seconds, or ``scan``, answered by the peak of memory."""
    side, network = name.split("-")
    if side == "learn":
        answer("ready")
        start = time.perf_counter()
        learn(network, folder, int(sys.stdin.readline()))
        answer(time.perf_counter() - start)
        return
    label = monais(network, folder, every) if side == "monai" else ours(folder / f"{network}.onnx", side, every)
    answer(peak_mib())
    for line in sys.stdin:
        if line.strip() == "scan":
            label(np.load(folder / "scan.npy", mmap_mode="r"))
            answer(peak_mib())
            continue
        volume = scan((int(line),) * 3)[0]
        start = time.perf_counter()
        labels = label(volume)
        taken = time.perf_counter() - start
        np.save(folder / f"{name}.npy", labels)
        answer(taken)


def monais(network: str, folder: Path, every: int) -> Label:
    import torch
    from monai.inferers import SlidingWindowInferer

    scores = thinned(load(network, folder), every)
    infer = SlidingWindowInferer((WINDOW,) * 3, sw_batch_size=1, overlap=OVERLAP, mode="gaussian")

    def label(volume: Any) -> Any:
        with torch.inference_mode():
            values = torch.from_numpy(in_f32(volume))[None, None]
            return infer(values, scores)[0].argmax(0).to(torch.uint8).numpy()

    return label


def ours(path: Path, precision: Any, every: int) -> Label:
    from models.runtime import Runtime
    from models.segmenter.tiling import Axis, score_strips
    from models.segmenter.whole import decide

    runtime = Runtime(path, precision=precision)
    runtime.prepare({"volume": (1, 1, WINDOW, WINDOW, WINDOW)})
    scores = thinned(lambda window: runtime.run({"volume": window})["scores"][0], every)

    def label(volume: Any) -> Any:
        def read(place: tuple[int, int, int]) -> Any:
            return in_f32(volume[tuple(slice(at, at + WINDOW) for at in place)])[None]

        axes = [Axis(size, WINDOW, OVERLAP) for size in volume.shape]
        labels = np.empty(volume.shape, np.uint8)
        for z, y, strip in score_strips(read, lambda window: scores(window[None]), axes, CLASSES):
            labels[z : z + strip.shape[1], y : y + strip.shape[2]] = decide(strip)
        return labels

    return label


def in_f32(values: Any) -> Any:
    if values.dtype != np.int16:
        return values
    values = values.astype(np.float32)
    values /= UNIT
    return values


def thinned(network: Callable[[Any], Any], every: int) -> Callable[[Any], Any]:
    """The network for the first two of each ``every`` windows, which two threads may take; the others get copies of its last
    scores.
    """
    if every == 1:
        return network
    numbers = itertools.count()
    last: list[Any] = []

    def scores(window: Any) -> Any:
        if next(numbers) % every < 2 or not last:
            last[:] = [network(window)]
        return copy.deepcopy(last[0])

    return scores


def peak_mib() -> float:
    """Of this process; unlike ru_maxrss without that of the process that started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def scan(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """A volume, float32, and its labels, uint8: bodies of five intensities that flow into one another, and noise."""
    z, y, x = np.ogrid[tuple(slice(size) for size in shape)]
    waves = (np.sin(z / a + b).astype(np.float32) for a, b in ((9, 0), (23, 1)))
    field = sum(wave * np.sin(y / 11 + 1).astype(np.float32) for wave in waves) + np.sin(x / 13).astype(np.float32)
    labels = np.zeros(shape, np.uint8)
    for level in (-1.2, -0.4, 0.4, 1.2):
        labels += field > level
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    return np.asarray((0, 1.5, -1, 3, 0.7), np.float32)[labels] + 0.3 * noise, labels


def made(network: str) -> Any:
    if network == "basicunet":
        from monai.networks.nets import BasicUNet

        return BasicUNet(3, 1, CLASSES)
    from models.segmenter.network import UNet, UNetSettings

    return UNet(UNetSettings(classes=CLASSES))


def load(network: str, folder: Path) -> Any:
    import torch

    module = made(network).eval()
    module.load_state_dict(torch.load(folder / f"{network}.pt", weights_only=True))
    return module


def learn(network: str, folder: Path, steps: int) -> None:
    """Weights, the exported network, and an empty file ``.bf16`` where the processor has that."""
    import torch

    from models.runtime import capabilities
    from training.export import Graph, write_onnx
    from training.segmenter.graphs import graph

    torch.manual_seed(0)
    module, side = made(network), 32
    values, truth = (torch.from_numpy(each) for each in scan((160,) * 3))
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3)
    for _ in range(steps):
        place = tuple(slice(at, at + side) for at in torch.randint(160 - side, (3,)).tolist())
        loss = torch.nn.functional.cross_entropy(module(values[place][None, None]), truth[place][None].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(module.state_dict(), folder / f"{network}.pt")
    window = (WINDOW,) * 3
    plain = Graph(module, {"volume": torch.randn(1, 1, *window)}, ["scores"], {})
    write_onnx(graph(module, window) if network == "unet" else plain, folder / f"{network}.onnx")
    if "BF16" in capabilities():
        (folder / f"{network}.bf16").touch()


if __name__ == "__main__":
    main()
