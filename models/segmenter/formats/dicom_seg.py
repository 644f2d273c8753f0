"""DICOM Segmentation objects, by highdicom: one segment for each class, on the planes of the series that was read."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.segmenter.formats.dicom import planes_of
from models.segmenter.formats.unpacking import guarded
from models.segmenter.volume import Volume

if TYPE_CHECKING:
    import pydicom

LONGEST = 64  # characters of a DICOM long string (LO)


def write(labels: NDArray[np.integer], volume: Volume, target: Path, classes: Sequence[str]) -> None:
    """Write a label map as a binary DICOM SEG that refers to the planes of its series.

    Args:
        labels: (z, y, x), uint8 or uint16, planes in the order of ``volume.source``.
        volume: from a DICOM series.
        target: file to make.
        classes: names by label; 0 is background and becomes no segment.

    Raises:
        VolumeError: the series lacks what a DICOM SEG has to repeat of it.
    """
    import pydicom

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    logging.getLogger("highdicom").setLevel(logging.CRITICAL)
    with warnings.catch_warnings(action="ignore"):
        with guarded(volume.name, "the series does not carry a DICOM SEG", "Write the label map as .nii.gz."):
            planes = [pydicom.dcmread(path, stop_before_pixels=True) for path in volume.source]
            _complete(planes, volume)
            segmentation = _segmentation(_in_file_order(labels, volume), planes, classes)
        segmentation.save_as(target)


def _in_file_order(labels: NDArray[np.integer], volume: Volume) -> NDArray[np.integer]:
    """Of one file of many frames, planes as the file holds them."""
    if len(volume.source) != 1:
        return labels
    arranged = np.empty_like(labels)
    arranged[[plane.frame for plane in planes_of(volume.source, volume.name)[0]]] = labels
    return arranged


def _complete(planes: Sequence[pydicom.Dataset], volume: Volume) -> None:
    """Say how thick the planes are where their files do not, as DICOM SEG wants it: as thick as they are apart."""
    assert volume.grid.spacing is not None
    for plane in planes:
        shared = plane.get("SharedFunctionalGroupsSequence") or [None]
        measures = (shared[0].get("PixelMeasuresSequence") or [plane])[0] if shared[0] is not None else plane
        if measures.get("SliceThickness") is None:
            measures.SliceThickness = f"{volume.grid.spacing[0]:.6g}"


def _segmentation(labels: NDArray[np.integer], planes: Sequence[pydicom.Dataset], classes: Sequence[str]) -> pydicom.Dataset:
    import highdicom
    from pydicom.sr.codedict import codes

    how = highdicom.AlgorithmIdentificationSequence("Convoy", codes.DCM.ArtificialIntelligence, "1")
    segments = [
        highdicom.seg.SegmentDescription(
            number,
            (name or f"label {number}")[:LONGEST].replace("\\", "/"),
            codes.SCT.Tissue,
            codes.SCT.Tissue,
            "AUTOMATIC",
            how,
        )
        for number, name in enumerate(classes)
        if number > 0
    ]
    return highdicom.seg.Segmentation(
        planes,
        np.ascontiguousarray(labels),
        "BINARY",
        segments,
        series_instance_uid=highdicom.UID(),
        series_number=1000,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="Convoy",
        manufacturer_model_name="Convoy segmenter",
        software_versions="1",
        device_serial_number="1",
        content_label="LABELS",
        series_description="Labels by Convoy",
    )
