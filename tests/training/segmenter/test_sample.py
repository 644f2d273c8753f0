from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from models.errors import DataFormatError
from tests.scans import save
from training.segmenter.sample import NAME, TEMPLATE, make_sample

SAMPLES = Path(__file__).resolve().parents[3] / "services" / "page" / "samples"


def test_the_crop_lies_where_it_was_in_the_template(tmp_path):
    """Each voxel of this template says where it lies."""
    affine = np.array([[-1.0, 0, 0, 60], [0, 1.0, 0, -60], [0, 0, 1.0, -50], [0, 0, 0, 1]])
    z, y, x = np.indices((80, 90, 120))
    values = (60 - x) + 1000 * (y - 60) + 1_000_000.0 * (z - 50)
    save(tmp_path / TEMPLATE, values, affine, np.float64)
    crop = nibabel.load(make_sample(tmp_path, tmp_path / "out"))
    assert crop.shape == (36, 52, 38)
    for place in ((0, 0, 0), (5, 7, 9), (35, 51, 37)):
        x, y, z = nibabel.affines.apply_affine(crop.affine, place)
        assert crop.dataobj[place] == x + 1000 * y + 1_000_000 * z
        assert -44 <= x <= -8
        assert -46 <= y <= 6
    with pytest.raises(DataFormatError, match="convoy fetch mni152"):
        make_sample(tmp_path / "nowhere", tmp_path / "out")


def test_the_sample_in_the_repository_is_a_volume_of_one_millimetre():
    image = nibabel.load(SAMPLES / NAME)
    assert image.shape == (36, 52, 38)
    assert image.header.get_zooms() == (1.0, 1.0, 1.0)
    assert np.asarray(image.dataobj).std() > 10
