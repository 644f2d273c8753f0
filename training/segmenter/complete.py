"""Paint the rest: somebody has painted some slices of one volume, the network learns from them and paints all others.

The semi-automated use of Çiçek et al. 2016 (section IV.A): `convoy complete`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.errors import ConfigError
from models.segmenter.formats import open_volume, write_labels
from models.segmenter.network import UNetSettings
from models.segmenter.restoring import Restorer
from models.segmenter.sampling import see
from models.segmenter.volume import Volume
from models.segmenter.whole import score_volume
from training.segmenter.annotation import Annotation, Labels
from training.segmenter.augmentation import Augmentation
from training.segmenter.data import SegmenterData, Split
from training.segmenter.losses import UNANNOTATED
from training.segmenter.module import SegmenterModule
from training.segmenter.patches import Drawing
from training.segmenter.prepared import label_map
from training.segmenter.short import fit

OVERLAP = 0.5
WINDOW_VOXELS = 64**3


@dataclass(frozen=True)
class Completed:
    """What was painted.

    Attributes:
        path: of the label map.
        painted: share of the voxels that somebody had painted.
        agreement: share of those that the network paints alike; it has seen them, so it is no measure of the rest.
    """

    path: Path
    painted: float
    agreement: float


def complete(
    volume: Path,
    labels: Path,
    out: Path,
    *,
    slices: Mapping[str, list[int]] | None = None,
    ignore: int | None = None,
    steps: int = 300,
    channels: tuple[int, ...] = (16, 32, 64, 128),
    batch_size: int = 2,
    flips: str = "",
    checkpoint: Path | None = None,
    progress: bool = True,
    seed: int = 1,
) -> Completed:
    """Learn from the painted slices of one volume, and write a label map of all of it; what was painted stays as it was.

    Args:
        volume: its file or folder.
        labels: label map on the same grid, of which some slices are painted.
        out: label map to make; its ending says of which kind.
        slices: numbers of the painted slices by axis (z, y, x as stored: NIfTI's third, second and first), from 0.
        ignore: label of the voxels that are not painted; instead of ``slices``, or beside them.
        steps: of training.
        channels: of the network, at each depth.
        batch_size: patches of a step.
        flips: axes along which mirror images are as good as the volume; none where left and right, or up and down, differ.
        checkpoint: file to keep the network in, for ``convoy export``.
        progress: show a bar.
        seed: of the random numbers.

    Raises:
        ConfigError: nothing says what is painted.
        DataFormatError: no such slice, or labels that do not fit the volume.
    """
    if not slices and ignore is None:
        fix = "Say --slices z=20,40 --slices x=64, or --ignore LABEL."
        raise ConfigError("what is painted?", where=str(labels), expected="slices, or the label of what is not", fix=fix)
    with tempfile.TemporaryDirectory(prefix="convoy-") as folder:
        place = Path(folder)
        data = _data(volume, labels, place, slices, ignore, steps, batch_size, flips, seed)
        data.setup("fit")
        assert data.plan is not None
        network = UNetSettings(classes=len(data.plan.classes), channels=channels, heads=2)
        module = fit(data, network, progress=progress, seed=seed)
        if checkpoint is not None:
            module.trainer.save_checkpoint(checkpoint, weights_only=True)
        (inner := place / "volume").mkdir()
        opened = open_volume(volume, inner, name=str(volume))
        painted = data.annotation.apply(label_map(data.cases[0], opened, inner), volume.name, len(data.plan.classes))
        found = paint(module, opened)
        known = painted != UNANNOTATED
        share = float((found[known] == painted[known]).mean())
        found[known] = painted[known]
        write_labels(found.astype(np.uint8 if len(data.plan.classes) <= 256 else np.uint16), opened, out, data.plan.classes)
        return Completed(out, float(known.mean()), share)


def paint(module: SegmenterModule, volume: Volume) -> Labels:
    """The labels (z, y, x), on the volume's own grid, that a trained module gives."""
    assert module.plan is not None
    labels: Labels = np.zeros(volume.grid.shape, np.int16)
    sight = see(volume, module.plan)
    restorer = Restorer(sight.shape, sight.turn.there(labels))
    layout = module.layout(sight.shape, OVERLAP)
    with torch.no_grad():
        for strip in score_volume(sight.window, module.scores, layout, len(module.plan.classes)):
            restorer.add(strip)
    return labels


def _data(
    volume: Path,
    labels: Path,
    place: Path,
    slices: Mapping[str, list[int]] | None,
    ignore: int | None,
    steps: int,
    batch_size: int,
    flips: str,
    seed: int,
) -> SegmenterData:
    """The one volume as a data set."""
    listed = place / "cases.csv"
    listed.write_text(f'image,label\n"{volume.resolve()}","{labels.resolve()}"\n', "utf-8")
    if slices:
        (place / "slices.json").write_text(json.dumps({"*": dict(slices)}), "utf-8")
    return SegmenterData(
        str(listed),
        split=Split(folds=1),
        plan=str(place / "plan.json"),
        window_voxels=WINDOW_VOXELS,
        annotation=Annotation(ignore=ignore, slices=str(place / "slices.json") if slices else None),
        drawing=Drawing(foreground=0.5),
        augmentation=Augmentation(affine=0.5, flips=flips),
        batch_size=batch_size,
        batches=steps,
        validation_count=0,
        cache=str(place / "cache"),
        seed=seed,
    )
