"""A segmenter bundle against annotated volumes: the standard figures, per class and per case, and pictures of the worst."""

from __future__ import annotations

import base64
import html
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from models.errors import ConfigError
from models.segmenter.formats import open_volume
from models.segmenter.grid import Spacing
from models.segmenter.predictor import Segmenter
from models.segmenter.preview import colours, draw, fullest
from models.segmenter.volume import Volume
from training.segmenter.annotation import Annotation
from training.segmenter.cases import Case, find_cases
from training.segmenter.data import Split
from training.segmenter.metrics import Agreement, agreement
from training.segmenter.prepared import label_map
from training.settings import output_folder

MEASURES = ("dice", "iou", "hd95", "surface_dice")
TITLES = {"dice": "Dice", "iou": "IoU", "hd95": "HD95, mm", "surface_dice": "surface Dice"}


@dataclass(frozen=True)
class Judged:
    """Figures of one volume.

    Attributes:
        case: which.
        classes: of each class but the background.
        seconds: that its segmentation took.
        picture: annotation and answer, PNG; empty unless asked for.
    """

    case: Case
    classes: dict[str, Agreement]
    seconds: float
    pictures: tuple[bytes, bytes] | None

    @property
    def dice(self) -> float:
        """Mean over classes."""
        return float(np.mean([each.dice for each in self.classes.values()]))


def evaluate(
    bundle: str | Path,
    data: str | Path,
    *,
    group: str | None = None,
    folds: int = 1,
    fold: int = 0,
    seed: int = 0,
    count: int | None = None,
    ignore: int | None = None,
    tolerance: float = 1.0,
    flips: str = "",
    worst: int = 8,
    out: Path | None = None,
) -> dict[str, Any]:
    """Segment volumes, compare with their annotation on its own grid, and print it.

    A class that is in neither counts as found (Dice, IoU and surface Dice 1, distance 0); one that is in only one of them as
    missed (0, and the volume's diagonal). Distances are in millimetres, or in voxels where the files do not say how far they are.

    Args:
        bundle: what Segmenter.load takes.
        data: data set, see ``training.segmenter.cases.find_cases``.
        group: see ``find_cases``.
        folds: parts that groups are divided into, as in training; 1 judges by all volumes.
        fold: the part that is judged by.
        seed: of the division.
        count: only the first so many volumes.
        ignore: label of voxels that nobody has painted.
        tolerance: of the surface Dice, mm.
        flips: axes that volumes are also looked at mirrored along.
        worst: so many of the worst volumes are shown in worst.html.
        out: folder for metrics.json, cases.json (each volume's figures, worst first) and worst.html.

    Returns:
        What metrics.json holds.

    Raises:
        ConfigError: no such data, or ``out`` cannot be made.
        DataFormatError: a label map that does not fit.
    """
    if out is not None:
        output_folder(out)
    segmenter = Segmenter.load(bundle)
    cases = find_cases(data, group).cases
    judged_by = (Split(folds, fold, seed)(cases)[1] if folds > 1 else cases)[:count]
    if not judged_by:
        raise ConfigError("no volume to judge by", where="count", expected="at least 1")
    annotation = Annotation(ignore=ignore)
    judged = [
        judge(segmenter, case, annotation, tolerance, flips, pictures=out is not None)
        for case in tqdm(judged_by, unit=" volumes", disable=None, leave=False)
    ]
    about = {"bundle": segmenter.spec.name, "data": str(data), "volumes": len(judged)}
    classes = summary(judged, segmenter.classes[1:])
    result: dict[str, Any] = {**about, "classes": classes}
    result |= {measure: _mean([each[measure] for each in classes.values()]) for measure in MEASURES}
    result["seconds_per_volume"] = float(np.mean([each.seconds for each in judged]))
    click.echo(report(result))
    if out is not None:
        _write(out, result, judged, worst)
    return result


def judge(
    segmenter: Segmenter, case: Case, annotation: Annotation, tolerance: float, flips: str, pictures: bool = False
) -> Judged:
    """Segment one volume and compare it."""
    with tempfile.TemporaryDirectory() as folder:
        volume = open_volume(case.image, Path(folder), name=str(case.image))
        wanted = annotation.apply(label_map(case, volume, Path(folder)), str(case.label), len(segmenter.classes))
        found = np.zeros(volume.grid.shape, segmenter.label_type)
        start = time.perf_counter()
        segmenter.segment_volume(volume, found, flips=flips)
        seconds = time.perf_counter() - start
        spacing = volume.grid.spacing or (1.0, 1.0, 1.0)
        figures = _figures(found, wanted, segmenter.classes, spacing, tolerance)
        return Judged(case, figures, seconds, _pictures(volume, wanted, found) if pictures else None)


def summary(judged: Sequence[Judged], classes: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """For each class the mean over volumes; distances over those that are wholly annotated, None where none is."""
    return {
        name: {measure: _mean([getattr(each.classes[name], measure) for each in judged]) for measure in MEASURES}
        | {"dice_worst": min(each.classes[name].dice for each in judged)}
        for name in classes
    }


def report(result: dict[str, Any]) -> str:
    """The figures as a table of text."""
    width = max(7, *(len(name) for name in result["classes"]))
    lines = [
        f"{result['bundle']} on {result['data']}: {result['volumes']} volumes, {result['seconds_per_volume']:.2f} s each",
        "",
        f"  {'class':<{width}}" + "".join(f"{TITLES[name]:>14}" for name in MEASURES) + f"{'worst Dice':>14}",
    ]
    for name, row in [*result["classes"].items(), ("all", result)]:
        cells = "".join(_cell(row[measure]) for measure in (*MEASURES, *(["dice_worst"] if "dice_worst" in row else [])))
        lines.append(f"  {name:<{width}}{cells}")
    return "\n".join(lines)


def _figures(
    found: NDArray[np.integer], wanted: NDArray[np.integer], classes: Sequence[str], spacing: Spacing, tolerance: float
) -> dict[str, Agreement]:
    return {name: agreement(found, wanted, label, spacing, tolerance) for label, name in enumerate(classes) if label}


def _pictures(volume: Volume, wanted: NDArray[np.integer], found: NDArray[np.integer]) -> tuple[bytes, bytes]:
    painted = wanted.clip(0)
    planes = fullest(volume.grid.turn.there(painted))
    return draw(volume, painted, planes), draw(volume, found, planes)


def _write(out: Path, result: dict[str, Any], judged: Sequence[Judged], worst: int) -> None:
    (out / "metrics.json").write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", "utf-8")
    ordered = sorted(judged, key=lambda each: each.dice)
    rows = [
        {"case": each.case.name, "group": each.case.group, "classes": {name: asdict(one) for name, one in each.classes.items()}}
        for each in ordered
    ]
    (out / "cases.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", "utf-8")
    (out / "worst.html").write_text(page(ordered[:worst], list(result["classes"])), "utf-8")


def page(judged: Sequence[Judged], classes: Sequence[str]) -> str:
    """Pictures of volumes, annotation above and answer below, in one HTML file that needs nothing else."""
    legend = " ".join(
        f'<span style="color:{colour}">■</span> {html.escape(name)}'
        for name, colour in zip(classes, colours(len(classes)), strict=True)
    )
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Worst volumes</title>"
        "<style>body{font:15px sans-serif;margin:2em;background:#222;color:#eee}img{display:block;max-width:100%;margin:4px 0}"
        f"</style><h1>Worst volumes</h1><p>Annotation above, answer below. {legend}"
    ]
    for each in judged:
        dice = ", ".join(f"{html.escape(name)} {one.dice:.3f}" for name, one in each.classes.items())
        parts.append(f"<h2>{html.escape(each.case.name)}</h2><p>Dice: {dice}")
        for title, picture in zip(("annotation", "answer"), each.pictures or (), strict=False):
            data = base64.b64encode(picture).decode()
            parts.append(f'<img alt="{title} of {html.escape(each.case.name)}" src="data:image/png;base64,{data}">')
    return "\n".join(parts) + "\n"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _cell(value: float | None) -> str:
    return f"{'–' if value is None else format(value, '.4f'):>14}"
