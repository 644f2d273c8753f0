"""The volume that the README and the page offer: the left hippocampus of an average brain, cut out of a public template.

convoy fetch mni152
python -m training.segmenter.sample data services/page/samples
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import click
import nibabel
import numpy as np

from models.errors import DataFormatError

TEMPLATE = "mni152/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
BOX = (
    (-44.0, -46.0, -32.0),
    (-8.0, 6.0, 6.0),
)  # mm to the right, front and top: around the left hippocampus
NAME = "hippocampus-mni152.nii.gz"


def make_sample(data: Path, out: Path) -> Path:
    """Write the part of the template that lies in ``BOX``, on the template's own grid.

    Args:
        data: folder of ``convoy fetch``.
        out: folder to write into.

    Raises:
        DataFormatError: the template is missing.
    """
    try:
        image = cast(Any, nibabel.load(data / TEMPLATE))
    except OSError as error:
        raise DataFormatError("cannot be read", where=str(data / TEMPLATE), got=error, fix="convoy fetch mni152") from error
    corners = np.array([[*corner, 1.0] for corner in BOX]) @ np.linalg.inv(image.affine).T
    low, high = (np.sort(np.round(corners[:, :3]).astype(int), axis=0)).tolist()
    crop = image.slicer[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    out.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.asarray(crop.dataobj), crop.affine), out / NAME)
    return out / NAME


if __name__ == "__main__":
    source, target = sys.argv[1:3] if len(sys.argv) == 3 else ("data", "services/page/samples")
    click.echo(make_sample(Path(source), Path(target)))
