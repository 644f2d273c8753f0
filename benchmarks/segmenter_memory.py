"""Peak memory of `Segmenter.segment_file` on a large scan, packed file to packed file, in a process of its own.

    .venv-dev/bin/python benchmarks/segmenter_memory.py

The scan is 512 × 512 × 400 voxels of 16 bits, gzip NIfTI, stored with its axes turned; --spacing makes it one that is resampled.
The network is small (channels 8 and 16, 5 classes, windows of 64³): a large one adds its own weights and one window's work.
Asked: below 1.5 GB.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from worker import ROOT

SHAPE = (400, 512, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--spacing", type=float, nargs=3, default=[1.0, 1.0, 1.0], help="of the scan, z y x; the network sees 1 mm"
    )
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_scan(folder / "scan.nii.gz", arguments.spacing)
        make_bundle(folder)
        command = [sys.executable, __file__, "--work", str(folder)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "TMPDIR": name})
        print(done.stdout)


def work(folder: Path) -> None:
    from models.segmenter import Segmenter

    segmenter = Segmenter.load(folder / "bundle")
    before, start = peak(), time.perf_counter()
    segmenter.segment_file(folder / "scan.nii.gz", folder / "labels.nii.gz")
    figures = {"loaded_mib": before, "peak_mib": peak(), "seconds": time.perf_counter() - start}
    print(json.dumps({name: round(value, 1) for name, value in figures.items()}))


def peak() -> float:
    """MiB that this process has held at most; getrusage would count those of the process that started it too."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def make_scan(path: Path, spacing: list[float]) -> None:
    """Smooth structure and noise, so that it packs as scans do; written plane by plane."""
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_shape(SHAPE[::-1])
    header.set_data_dtype(np.int16)
    z, y, x = spacing
    header.set_sform(np.array([[0, y, 0, 0], [-x, 0, 0, 0], [0, 0, -z, 0], [0, 0, 0, 1.0]]), 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    random = np.random.default_rng(0)
    rows = np.sin(np.linspace(0, 20, SHAPE[1]))[:, None] + np.sin(np.linspace(0, 30, SHAPE[2]))
    with gzip.open(path, "wb", 1) as file:
        file.write(header.binaryblock + bytes(4))
        for number in range(SHAPE[0]):
            plane = 200 * (rows + np.sin(number / 15)) + random.normal(0, 20, SHAPE[1:])
            file.write(plane.astype(np.int16).tobytes())


def make_bundle(folder: Path) -> None:
    import torch

    from models.segmenter.network import UNet, UNetSettings
    from models.segmenter.plan import Plan
    from training.export import export_bundle

    torch.manual_seed(0)
    network = UNet(UNetSettings(classes=5, channels=(8, 16)))
    names = ["background", "a", "b", "c", "d"]
    plan = Plan(classes=names, spacing=(1.0, 1.0, 1.0), window=(64, 64, 64), overlap=0.25)
    weights = {f"network.{key}": value for key, value in network.state_dict().items()}
    about = {"settings": asdict(network.settings), "plan": plan.model_dump(mode="json")}
    torch.save({"task": "segmenter", "segmenter": about, "state_dict": weights}, folder / "x.ckpt")
    export_bundle(folder / "x.ckpt", folder / "bundle")


if __name__ == "__main__":
    main()
