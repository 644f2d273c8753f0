"""What a few painted slices are worth: the 3-D U-Net trained on them and judged by whole volumes that it has not seen.

    python -m training.segmenter.halves data/flyem data/flyem-halves
    .venv-dev/bin/python benchmarks/sparse_curve.py --out docs/sparse

Hippocampus: every training volume keeps 1, 2, 4, 8 or all of its slices along z; mean Dice of both classes on the scans of fold
0. Electron microscopy: the lower half keeps 1, 2, 3, 5 or 10 slices along each axis; IoU of the boundaries in the upper half. All
points of a curve have one network and one number of steps. A point that OUT/figures.json already holds is not trained again.
Writes figures.json, curve.png and a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from models.segmenter.network import UNetSettings
from training.segmenter.annotation import Annotation
from training.segmenter.augmentation import Augmentation
from training.segmenter.data import SegmenterData, Split
from training.segmenter.losses import UNANNOTATED
from training.segmenter.patches import Drawing
from training.segmenter.short import fit

HIPPOCAMPUS, FLYEM = (1, 2, 4, 8, None), (1, 2, 3, 5, 10)
NAMES = {"hippocampus": "hippocampus, Dice", "flyem": "cell boundaries, IoU"}
CONFIGS = Path(__file__).resolve().parent.parent / "training" / "configs"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hippocampus", type=Path, default=Path("data/hippocampus"))
    parser.add_argument("--flyem", type=Path, default=Path("data/flyem-halves"))
    parser.add_argument("--steps", type=int, default=400, help="of each training (default: 400)")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "figures.json"
    points = json.loads(path.read_text()) if path.exists() else {"steps": arguments.steps, "hippocampus": {}, "flyem": {}}
    if points["steps"] != arguments.steps:
        parser.error(f"{path} holds points of {points['steps']} steps: choose another folder, or --steps {points['steps']}")
    for name, counts, judge in (("flyem", FLYEM, flyem), ("hippocampus", HIPPOCAMPUS, hippocampus)):
        for count in counts:
            key = "all" if count is None else str(count)
            if key not in points[name]:
                start = time.perf_counter()
                points[name][key] = judge(arguments, count)
                path.write_text(json.dumps(points, indent=1) + "\n")
                print(f"{name}, {key}: {points[name][key]} ({time.perf_counter() - start:.0f} s)", flush=True)
    draw(points, arguments.out / "curve.png")
    (arguments.out / "table.md").write_text(table(points))
    print(table(points))


def hippocampus(arguments: argparse.Namespace, count: int | None) -> dict[str, float]:
    data = SegmenterData(
        str(arguments.hippocampus),
        group="scan",
        split=Split(5, 0),
        plan=str(CONFIGS / "segmenter-hippocampus.plan.json"),
        annotation=Annotation(keep=count, axes="z", stagger=True),
        drawing=Drawing(patch=(32, 48, 32)),
        augmentation=Augmentation(affine=0.5, deformation=0.1, flips="x"),
        batch_size=2,
        batches=arguments.steps,
    )
    return trained(data, UNetSettings(classes=3, channels=(16, 32, 64, 128), heads=2))


def flyem(arguments: argparse.Namespace, count: int) -> dict[str, float]:
    data = SegmenterData(
        str(arguments.flyem / "lower.csv"),
        str(arguments.flyem / "upper.csv"),
        plan=str(CONFIGS / "segmenter-flyem-boundaries.plan.json"),
        annotation=Annotation(keep=count, axes="zyx"),
        drawing=Drawing(patch=(48, 48, 48)),
        augmentation=Augmentation(affine=0.3, degrees=45, deformation=0.05, flips="zyx"),
        batch_size=2,
        batches=arguments.steps,
    )
    return trained(data, UNetSettings(classes=2, channels=(16, 32, 64, 128), heads=2))


def trained(data: SegmenterData, network: UNetSettings) -> dict[str, float]:
    """Figures of the classes, means over the volumes that are judged."""
    with tempfile.TemporaryDirectory() as cache:
        data.cache = Path(cache)
        module = fit(data, network)
        figures: dict[str, list[float]] = {}
        share = float(np.mean([(one.labels != UNANNOTATED).mean() for one in data.patches.cases]))
        for one in data.judged:
            found = module.segment(one.image)
            for label in range(1, network.classes):
                a, b = found == label, one.labels == label
                both, either = float((a & b).sum()), float((a | b).sum())
                name = data.plan.classes[label]
                figures.setdefault(f"dice_{name}", []).append(2 * both / max(1.0, both + either))
                figures.setdefault(f"iou_{name}", []).append(both / max(1.0, either))
    return {"annotated": share} | {name: float(np.mean(values)) for name, values in figures.items()}


TICKS = [1, 2, 5, 10, 20, 50, 100]


def figure_of(name: str, point: dict[str, float]) -> float:
    kind = "dice_" if name == "hippocampus" else "iou_"
    return float(np.mean([value for key, value in point.items() if key.startswith(kind)]))


def draw(points: dict, path: Path) -> None:
    drawn = Figure(figsize=(6, 4), layout="constrained")
    axes = drawn.add_subplot()
    for name, title in NAMES.items():
        items = list(points[name].items())
        axes.plot(
            [100 * point["annotated"] for _, point in items], [figure_of(name, point) for _, point in items], "o-", label=title
        )
        for key, point in items:
            axes.annotate(key, (100 * point["annotated"], figure_of(name, point)), textcoords="offset points", xytext=(4, -10))
    axes.set_xscale("log")
    axes.set_xticks(TICKS, map(str, TICKS), minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("annotated voxels, %; numbers are slices of each volume\n(electron microscopy: along each axis)")
    axes.set_ylabel("on whole volumes not seen")
    axes.legend()
    drawn.savefig(path, dpi=120)


def table(points: dict) -> str:
    lines = ["| slices | " + " | ".join(NAMES.values()) + " |", "|---|---|---|"]
    keys = list(dict.fromkeys([*points["flyem"], *points["hippocampus"]]))
    for key in sorted(keys, key=lambda key: 1e9 if key == "all" else int(key)):
        cells = [f"{figure_of(name, points[name][key]):.3f}" if key in points[name] else "" for name in NAMES]
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
