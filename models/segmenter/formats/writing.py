"""Writes a label map on its volume's grid, of the kind that the target's name asks for, all of it or nothing."""

from __future__ import annotations

import importlib
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError
from models.segmenter.volume import Volume

WRITERS = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".nrrd": "nrrd",
    ".mha": "metaimage",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".zarr": "ome_zarr",
    ".dcm": "dicom_seg",
}
SUFFIXES = {"nifti": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha", "tiff": ".tif", "dicom": ".dcm", "zarr": ".zarr"}


def default_suffix(volume: Volume) -> str:
    """The ending of a label map of the volume's own kind."""
    return SUFFIXES[volume.kind]


def suffix_of(target: Path) -> str:
    """The ending that says of which kind a label map is to be.

    Raises:
        ConfigError: none that is known.
    """
    for suffix in WRITERS:
        if target.name.lower().endswith(suffix) and len(target.name) > len(suffix):
            return suffix
    raise ConfigError("no kind of label map", where=str(target), expected=f"a name that ends in {', '.join(WRITERS)}")


def check_target(target: Path, volume: Volume) -> str:
    """The module that writes it; ConfigError where the volume cannot be written so."""
    suffix = suffix_of(target)
    if suffix == ".dcm" and volume.kind != "dicom":
        fix = f"Take {default_suffix(volume)}."
        expected = "a DICOM series, which the segmentation refers to"
        raise ConfigError("DICOM SEG needs a DICOM series", where=str(target), expected=expected, got=volume.kind, fix=fix)
    return WRITERS[suffix]


def write_labels(labels: NDArray[np.integer], volume: Volume, target: Path, classes: Sequence[str]) -> Path:
    """Write a label map.

    Args:
        labels: (z, y, x), as the volume is stored.
        volume: whose grid it lies on.
        target: file to make, or to replace; .zarr is a folder.
        classes: names by label.

    Raises:
        ConfigError: the target's ending is unknown or does not go with the volume, or the disk refuses.
    """
    module = check_target(target, volume)
    partial = target.with_name(f".{secrets.token_hex(6)}.{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        importlib.import_module(f"models.segmenter.formats.{module}").write(labels, volume, partial, classes)
        if target.is_dir():
            shutil.rmtree(target)
        partial.replace(target)
    except OSError as error:
        raise ConfigError("the label map cannot be written", where=str(target), got=error.strerror or error) from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
    return target
