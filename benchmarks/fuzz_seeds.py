"""Good files and texts, from which `fuzz.py` starts: real recordings and volumes, short ones, in every format that is read."""

from __future__ import annotations

import gzip
import io
import tempfile
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import soundfile
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from models.segmenter.formats.reading import open_volume
from models.segmenter.formats.writing import write_labels

SAMPLES = Path(__file__).resolve().parent.parent / "services" / "page" / "samples"
TEXTS = [
    "Ada Lovelace lived in London.",
    "我爱北京天安门。",
    "他说 “OK” , 然后去了 New York。",
    "U.S. sales rose 3.5% (to $1,200) -- didn't they? 👩🏽‍🚀",
    "  \t\r\n",
    "",
    "a" * 3000,
    "中" * 2000,
    "مرحبا بالعالم",
    "e\u0301\u0302\u0303" * 50,
    "\u202eabc\u200b\ufeff\u0000\u0007\u2028",
    "０１２ＡＢＣ　ｱｲｳ",
    "word " * 400,
    "<script>alert(1)</script> ' OR 1=1; --",
    "\U0010ffff\U000e0001",
]
SECONDS = 0.4


def recordings() -> dict[str, bytes]:
    """Pieces of the sample recordings as WAV, FLAC, OGG and MP3, of several rates, widths and channels."""
    values, rate = soundfile.read(SAMPLES / "two-speakers.flac", dtype="float32")
    piece = values[rate : rate + int(rate * SECONDS)]
    stereo = np.stack([piece, piece[::-1]], 1)
    found = {
        name: _sound(samples, at, *kind)
        for name, samples, at, kind in [
            ("a.wav", piece, rate, ("WAV", "PCM_16")),
            ("b.wav", piece, rate, ("WAV", "FLOAT")),
            ("c.wav", stereo, 44100, ("WAV", "PCM_24")),
            ("d.wav", piece, rate, ("WAV", "ULAW")),
            ("e.wav", piece, rate, ("WAVEX", "PCM_16")),
            ("f.wav", piece, rate, ("RF64", "PCM_16")),
            ("g.flac", piece, rate, ("FLAC", "PCM_16")),
            ("h.flac", stereo, 48000, ("FLAC", "PCM_24")),
            ("i.ogg", piece, rate, ("OGG", "VORBIS")),
            ("j.ogg", piece, rate, ("OGG", "OPUS")),
            ("k.mp3", piece, 16000, ("MP3", "MPEG_LAYER_III")),
        ]
    }
    found["l.flac"] = (SAMPLES / "two-speakers-1.flac").read_bytes()[:20_000]  # ends early
    return found


def _sound(samples: np.ndarray, rate: int, kind: str, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def volumes() -> dict[str, bytes]:
    """A piece of the sample scan as NIfTI, and in each other format by our own writers; a DICOM series plane by plane."""
    scan = nibabel.load(SAMPLES / "hippocampus-mni152.nii.gz")
    piece = scan.slicer[8:20, 10:24, 6:16]
    plain = nibabel.Nifti1Image(np.asarray(piece.dataobj).astype(np.int16), piece.affine).to_bytes()
    found = {"a.nii": plain, "b.nii.gz": gzip.compress(plain)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "scan.nii").write_bytes(plain)
        volume = open_volume(folder / "scan.nii", folder)
        voxels = np.asarray(volume.stored)
        labels = (voxels > voxels.mean()).astype(np.uint8)
        for suffix in (".nrrd", ".mha", ".tif", ".nii.gz"):
            found[f"c{suffix}"] = write_labels(labels, volume, folder / f"labels{suffix}", ["no", "yes"]).read_bytes()
        found["d.zip"] = _zipped(write_labels(labels, volume, folder / "labels.zarr", ["no", "yes"]))
        series = folder / "series"
        series.mkdir()
        for number, plane in enumerate(voxels):
            _dicom(plane, number).save_as(series / f"{number:03d}.dcm", enforce_file_format=True)
        found["e.zip"], found["f.dcm"] = _zipped(series), (series / "000.dcm").read_bytes()
    return found


def _zipped(folder: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            archive.write(path, path.relative_to(folder.parent))
    return file.getvalue()


def _dicom(plane: np.ndarray, number: int) -> Dataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", f"2.25.1.{number + 1}"
    each = Dataset()
    each.file_meta = meta
    each.SOPClassUID, each.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    each.StudyInstanceUID, each.SeriesInstanceUID, each.FrameOfReferenceUID = "2.25.2", "2.25.1", "2.25.3"
    each.Modality, each.InstanceNumber, each.PatientID, each.PatientName = "MR", number + 1, "1", "A^B"
    each.StudyDate, each.StudyTime, each.StudyID, each.AccessionNumber = "20200101", "000000", "1", ""
    each.PatientBirthDate, each.PatientSex, each.SeriesNumber = "", "O", 1
    each.ReferringPhysicianName = each.Manufacturer = each.PositionReferenceIndicator = ""
    each.Rows, each.Columns = plane.shape
    each.SamplesPerPixel, each.PhotometricInterpretation = 1, "MONOCHROME2"
    each.BitsAllocated, each.BitsStored, each.HighBit, each.PixelRepresentation = 16, 16, 15, 1
    each.PixelSpacing, each.SliceThickness = [1.0, 1.0], 1.0
    each.ImageOrientationPatient, each.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0.0, 0.0, float(number)]
    each.PixelData = np.ascontiguousarray(plane.astype("<i2")).tobytes()
    return each
