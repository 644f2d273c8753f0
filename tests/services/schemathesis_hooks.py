"""Files that schemathesis sends where the description asks for one: real ones, for which the service has an answer."""

from __future__ import annotations

import gzip
import io
import zipfile

import nibabel
import numpy as np
import schemathesis
import soundfile
import tifffile
from hypothesis import strategies

VALUES = np.random.default_rng(0).uniform(0, 100, (6, 7, 8)).astype(np.float32)


def sound(kind: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).uniform(-0.5, 0.5, 800), 8000, format=kind, subtype=subtype)
    return file.getvalue()


def nifti() -> bytes:
    return nibabel.Nifti1Image(VALUES, np.eye(4)).to_bytes()


def tiff() -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, VALUES, imagej=True, resolution=(1, 1), metadata={"spacing": 1, "unit": "mm", "axes": "ZYX"})
    return file.getvalue()


def nrrd() -> bytes:
    head = (
        "NRRD0004\ntype: float\ndimension: 3\nsizes: 8 7 6\nspace: left-posterior-superior\n"
        "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nendian: little\nencoding: raw\n\n"
    )
    return head.encode() + VALUES.astype("<f4").tobytes()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("scan.nii.gz", gzip.compress(nifti()))
    return file.getvalue()


FILES = {
    "audio/wav": [sound("WAV"), sound("WAV", "FLOAT")],
    "audio/flac": [sound("FLAC")],
    "audio/ogg": [sound("OGG")],
    "audio/mpeg": [sound("MP3")],
    "application/gzip": [gzip.compress(nifti())],
    "application/octet-stream": [sound("WAV"), nifti(), nrrd()],
    "application/zip": [zipped()],
    "application/dicom": [zipped()],
    "image/tiff": [tiff()],
}
for kind, files in FILES.items():
    schemathesis.openapi.media_type(kind, strategies.sampled_from(files))
