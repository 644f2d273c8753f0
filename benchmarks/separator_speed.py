"""Our Conv-TasNet, torchaudio's and Asteroid's, of the paper's size, with the same weights, on the same cores, in one run.

    python benchmarks/separator_speed.py

Each peer's random weights are exported as a bundle of ours, so that every peer is compared with its own weights. The recording
is that of services/page/samples, repeated. The programs take turns in processes that stay loaded; the others wait meanwhile.
Asteroid lives in an environment of its own (see asteroid_parity.py). Ours adds to each voice its share of what the voices miss
of the mixture, so the peers' voices get the same before they are compared: how far our SI-SNR (against the voices that were
mixed) is from the peer's, and to how many dB the two agree. Prints a table, then JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from asteroid_parity import asteroid_python
from worker import ROOT, Worker, answer

SAMPLES = ROOT / "services" / "page" / "samples"
RATE = 8000
PEERS = ("torchaudio", "asteroid")

Separate = Callable[[Any], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[4.0, 60.0], help="lengths of the recording")
    parser.add_argument("--rounds", type=int, default=5, help="timed passes of each (default: 5)")
    parser.add_argument("--cores", type=int, default=2, help="cores all may use (default: 2)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.folder)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    cores = sorted(os.sched_getaffinity(0))[: arguments.cores]
    pythons = {"asteroid": asteroid_python()}
    with tempfile.TemporaryDirectory() as folder:
        workers: dict[str, Worker] = {}
        for peer in PEERS:  # the peer first: it writes the weights that ours reads
            for name in (peer, f"ours-{peer}"):
                command = [pythons.get(name, sys.executable), __file__, "--worker", name, "--folder", folder]
                workers[name] = Worker(command, cores)
        try:
            figures = [measure(workers, seconds, arguments.rounds, Path(folder)) for seconds in arguments.seconds]
        finally:
            for worker in workers.values():
                worker.close()
    print(json.dumps(figures, indent=2))


def measure(workers: dict[str, Worker], seconds: float, rounds: int, folder: Path) -> dict[str, Any]:
    for worker in workers.values():
        worker.turn(seconds)  # not counted
    taken: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(rounds):  # who goes first changes with every round
        for name, worker in list(workers.items())[:: 1 if number % 2 else -1]:
            taken[name].append(worker.turn(seconds))
    figures: dict[str, Any] = {"seconds": seconds, "per_second": dict(taken)}
    print(f"\n{seconds:g} s, {rounds} rounds{'':14}{'s per second':>14}{'lowest':>10}{'highest':>10}")
    for name, each in taken.items():
        print(f"{name:<30}{statistics.median(each) / seconds:>14.4f}{min(each) / seconds:>10.4f}{max(each) / seconds:>10.4f}")
    for peer in PEERS:
        ratios = [theirs / ours for theirs, ours in zip(taken[peer], taken[f"ours-{peer}"], strict=True)]
        theirs, ours = (np.load(folder / f"{name}.npy") for name in (peer, f"ours-{peer}"))
        mixture, voices = recording(seconds)
        theirs = theirs + (mixture - theirs.sum(0)) / len(theirs)
        difference = max(abs(si_snr(a, v) - si_snr(b, v)) for a, b, v in zip(theirs, ours, voices, strict=True))
        agreement = min(si_snr(b, a) for a, b in zip(theirs, ours, strict=True))
        figures[peer] = {
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
            "si_snr_difference": difference,
            "agreement": agreement,
        }
        print(
            f"{peer}: {statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f}); SI-SNR differs by"
            f" {difference:.4f} dB at most, and ours agrees with theirs to {agreement:.1f} dB"
        )
    return figures


def work(name: str, folder: Path) -> None:
    separate = {"torchaudio": torchaudios, "asteroid": asteroids}.get(name) or ours
    run = separate(folder / f"{name.removeprefix('ours-')}.pt")
    answer("ready")
    for line in sys.stdin:
        mixture, _ = recording(float(line))
        start = time.perf_counter()
        voices = run(mixture)
        taken = time.perf_counter() - start
        np.save(folder / f"{name}.npy", voices)
        answer(taken)


def ours(weights: Path) -> Separate:
    import torch

    from models.separator import Separator
    from models.separator.state_dicts import from_asteroid, from_torchaudio
    from training.export import export_bundle

    saved = torch.load(weights, weights_only=False)
    settings, state = from_asteroid(saved) if weights.stem == "asteroid" else from_torchaudio(saved)
    about = {"settings": asdict(settings), "sample_rate": RATE}
    checkpoint = weights.with_suffix(".ckpt")
    torch.save(
        {"task": "separator", "separator": about, "state_dict": {f"network.{key}": value for key, value in state.items()}},
        checkpoint,
    )
    separator = Separator.load(export_bundle(checkpoint, weights.with_suffix("")))
    return lambda mixture: separator.separate(mixture, RATE)


def torchaudios(weights: Path) -> Separate:
    import torch
    from torchaudio.models import ConvTasNet

    torch.manual_seed(0)
    network = ConvTasNet(msk_num_feats=128, msk_num_hidden_feats=512).eval()
    tell_apart(network.mask_generator.output_conv)
    torch.save(network.state_dict(), weights)
    return _of_torch(network, lambda mixture: network(mixture[None, None])[0])


def asteroids(weights: Path) -> Separate:
    import torch
    from asteroid.models import ConvTasNet

    torch.manual_seed(0)
    network = ConvTasNet(n_src=2).eval()
    tell_apart(network.masker.mask_net[1])
    torch.save(network.serialize(), weights)
    return _of_torch(network, lambda mixture: network(mixture[None, None])[0])


def tell_apart(masks: Any) -> None:
    """Make one voice of random weights loud and the other faint, as trained ones differ: where windows cannot be joined with
    confidence, ours runs the network once more, which it hardly ever does on real voices.
    """
    import torch

    with torch.no_grad():
        half = len(masks.bias) // 2
        masks.bias[:half] += 2
        masks.bias[half:] -= 2


def _of_torch(network: Any, separate: Separate) -> Separate:
    import torch

    def run(mixture: Any) -> Any:
        with torch.inference_mode():
            return separate(torch.from_numpy(mixture)).numpy()

    return run


def recording(seconds: float) -> tuple[Any, Any]:
    """Mixture (T) and voices (2, T): the sample's, again and again."""
    import soundfile

    count = round(seconds * RATE)
    files = [soundfile.read(SAMPLES / f"two-speakers{ending}.flac", dtype="float32")[0] for ending in ("", "-1", "-2")]
    mixture, *voices = [np.resize(samples, count) for samples in files]
    return mixture, np.stack(voices)


def si_snr(estimate: Any, target: Any) -> float:
    estimate, target = (each.astype(np.float64) - each.mean() for each in (estimate, target))
    projection = target * (estimate @ target) / (target @ target)
    return float(10 * np.log10((projection @ projection) / max(1e-30, float(((estimate - projection) ** 2).sum()))))


if __name__ == "__main__":
    main()
