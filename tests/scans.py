"""Small annotated volumes for tests: a bright ball in two halves, in noise."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np

CLASSES = ["background", "Anterior", "Posterior"]


def ball(shape=(14, 18, 12), seed=0):
    """Values and labels (z, y, x): label 1 in the front half (high y), 2 in the back."""
    random = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    middle = np.array(shape) / 2 + random.uniform(-1, 1, 3)
    inside = np.linalg.norm((places - middle) / (np.array(shape) / 2.8), axis=-1) < 1
    labels = np.where(inside, np.where(places[..., 1] > middle[1], 1, 2), 0).astype(np.uint8)
    values = 100 + 60 * (labels == 1) + 30 * (labels == 2) + random.normal(0, 4, shape)
    return values.astype(np.float32), labels


def save(path, array, affine=None, dtype=None):
    """A (z, y, x) array as NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(np.asarray(array).T, np.eye(4) if affine is None else affine, dtype=dtype)
    nibabel.save(image, path)
    return path


def write_decathlon(folder: Path, count=6, shape=(14, 18, 12)):
    """A folder as the Medical Segmentation Decathlon's; two neighbours are of one scan."""
    cases = []
    for number in range(count):
        values, labels = ball(shape, number)
        name = f"case_{number:03d}.nii.gz"
        save(folder / "imagesTr" / name, values * (1 + number))
        save(folder / "labelsTr" / name, labels)
        cases.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}", "scan": number // 2})
    about = {"labels": {str(number): name for number, name in enumerate(CLASSES)}, "training": cases}
    (folder / "dataset.json").write_text(json.dumps(about), "utf-8")
    return folder
