"""One annotated volume made two, to learn from the lower half of its planes and judge by the upper:

python -m training.segmenter.halves data/flyem data/flyem-halves
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
import numpy as np

from models.segmenter.formats import open_volume
from models.segmenter.formats.writing import write_labels
from models.segmenter.volume import Volume
from training.settings import output_folder

HALVES = ("lower", "upper")


def make_halves(folder: Path, out: Path, image: str = "image.tif", label: str = "label.tif") -> list[Path]:
    """Write ``lower.csv`` and ``upper.csv``, lists for ``find_cases`` of one case each, and the files that they name.

    Args:
        folder: that holds the volume and its label map, of 8 bits.
        out: folder to write into.
        image: name of the volume.
        label: name of its label map.
    """
    output_folder(out)
    for name in (image, label):
        with tempfile.TemporaryDirectory() as scratch:
            whole = open_volume(folder / name, Path(scratch), name=str(folder / name))
            middle = len(whole.stored) // 2
            for half, planes in zip(HALVES, (slice(None, middle), slice(middle, None)), strict=True):
                _write(whole, planes, out / f"{half}-{name}")
    lists = []
    for half in HALVES:
        lists.append(out / f"{half}.csv")
        lists[-1].write_text(f"image,label\n{half}-{image},{half}-{label}\n", "utf-8")
    return lists


def _write(whole: Volume, planes: slice, target: Path) -> None:
    """Planes of a volume of whole numbers, which our writer of label maps keeps as they are."""
    write_labels(np.ascontiguousarray(whole.stored[planes]).astype(np.uint8), whole, target, [])


if __name__ == "__main__":
    for path in make_halves(Path(sys.argv[1]), Path(sys.argv[2])):
        click.echo(path)
