"""DICOM series made here, plane by plane, and DICOM SEG read back by highdicom."""

import contextlib
import warnings

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from models.errors import (
    InputError,
    VolumeError,
    VolumeGeometryError,
    VolumeShapeError,
    VolumeTooLargeError,
    VolumeTruncatedError,
)
from models.segmenter.formats import dicom, dicom_seg
from models.segmenter.grid import LPS_TO_RAS
from models.segmenter.volume import Limits

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
SERIES, STUDY, FRAME = "2.25.1", "2.25.2", "2.25.3"
VOXELS = np.random.default_rng(0).integers(-500, 500, (4, 6, 5)).astype(np.int16)  # z, y, x
ANGLE = 0.25
ROW, COLUMN = np.array([np.cos(ANGLE), np.sin(ANGLE), 0]), np.array([-np.sin(ANGLE), np.cos(ANGLE), 0])
STEP, ORIGIN = 2.5, np.array([-10.0, 5.0, 100.0])


def plane(number, **changes):
    """One of the series' planes, as a dataset."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CT
    meta.MediaStorageSOPInstanceUID = f"{SERIES}.{number + 1}"
    each = Dataset()
    each.file_meta = meta
    each.SOPClassUID, each.SOPInstanceUID = CT, meta.MediaStorageSOPInstanceUID
    each.StudyInstanceUID, each.SeriesInstanceUID, each.FrameOfReferenceUID = STUDY, SERIES, FRAME
    each.Modality, each.SeriesDescription, each.SeriesNumber, each.InstanceNumber = "CT", "tiny", 1, number + 1
    each.PatientID, each.PatientName, each.PatientBirthDate, each.PatientSex = "1", "A^B", "", "O"
    each.StudyDate, each.StudyTime, each.StudyID, each.AccessionNumber = "20200101", "000000", "1", ""
    each.ReferringPhysicianName = each.Manufacturer = each.PositionReferenceIndicator = ""
    each.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    each.Rows, each.Columns, each.SamplesPerPixel, each.PhotometricInterpretation = 6, 5, 1, "MONOCHROME2"
    each.BitsAllocated, each.BitsStored, each.HighBit, each.PixelRepresentation = 16, 16, 15, 1
    each.PixelSpacing, each.SliceThickness = [0.8, 0.7], STEP  # between rows, between columns
    each.ImageOrientationPatient = [round(float(value), 10) for value in (*ROW, *COLUMN)]
    each.ImagePositionPatient = [float(value) for value in np.add(ORIGIN, (0, 0, STEP * number))]
    each.RescaleSlope, each.RescaleIntercept = 2, -1024
    if number < len(VOXELS):
        each.PixelData = VOXELS[number].tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(each, keyword)
        else:
            setattr(each, keyword, value)
    return each


def save(each, path):
    each.save_as(path, enforce_file_format=True)


def series(folder, planes=None, names="cabd"):
    """Saved under names that are not in the planes' order."""
    folder.mkdir(exist_ok=True)
    for number, each in enumerate(planes or [plane(number) for number in range(4)]):
        save(each, folder / f"{names[number]}.dcm")
    return folder


def many(**changes):
    """The same planes as one file of many frames."""
    each = plane(0, ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None)
    del each.RescaleSlope, each.RescaleIntercept
    each.SOPClassUID = each.file_meta.MediaStorageSOPClassUID = ENHANCED_CT
    each.NumberOfFrames, each.PixelData = 4, VOXELS[[2, 0, 1, 3]].tobytes()
    shared, orientation, measures, values = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = plane(0).ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = [0.8, 0.7], STEP
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 2, -1024, "HU"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    shared.PixelValueTransformationSequence = [values]
    each.SharedFunctionalGroupsSequence, each.PerFrameFunctionalGroupsSequence = [shared], []
    for number in (2, 0, 1, 3):
        group, place = Dataset(), Dataset()
        place.ImagePositionPatient = plane(number).ImagePositionPatient
        group.PlanePositionSequence = [place]
        each.PerFrameFunctionalGroupsSequence.append(group)
    for keyword, value in changes.items():
        setattr(each, keyword, value)
    return each


def read(folder, tmp_path, **limits):
    (scratch := tmp_path / "scratch").mkdir(exist_ok=True)
    return dicom.read_folder(folder, scratch, Limits(**limits), "a series")


def expected_affine():
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2], affine[:3, 3] = ROW * 0.7, COLUMN * 0.8, (0, 0, STEP), ORIGIN
    return LPS_TO_RAS @ affine


def test_a_series(tmp_path):
    folder = series(tmp_path / "in")
    (folder / "notes.txt").write_text("nothing")
    volume = read(folder, tmp_path)
    assert volume.kind == "dicom"
    assert np.array_equal(volume.stored, VOXELS)
    assert (volume.slope, volume.intercept) == (2.0, -1024.0)
    assert np.allclose(volume.grid.affine, expected_affine(), rtol=0, atol=1e-8)
    assert volume.grid.spacing == pytest.approx((2.5, 0.8, 0.7))
    assert [path.name for path in volume.source] == ["c.dcm", "a.dcm", "b.dcm", "d.dcm"]


def test_as_simpleitk_reads_it(tmp_path):
    folder = series(tmp_path / "in")
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    volume = read(folder, tmp_path)
    assert np.allclose(sitk.GetArrayFromImage(image), volume.stored * volume.slope + volume.intercept)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing(), image.GetOrigin()
    assert np.allclose(volume.grid.affine, LPS_TO_RAS @ affine, rtol=0, atol=1e-6)


def test_packed_pixels(tmp_path):
    planes = [plane(number) for number in range(4)]
    for each in planes:
        each.compress(RLELossless, generate_instance_uid=False)
    assert np.array_equal(read(series(tmp_path / "in", planes), tmp_path).stored, VOXELS)


def test_planes_that_are_scaled_differently(tmp_path):
    planes = [plane(number, RescaleSlope=number + 1) for number in range(4)]
    volume = read(series(tmp_path / "in", planes), tmp_path)
    assert volume.stored.dtype == np.float32
    assert (volume.slope, volume.intercept) == (1.0, 0.0)
    assert np.allclose(volume.stored, VOXELS * np.arange(1, 5)[:, None, None] - 1024.0)


def test_other_files_are_passed_over(tmp_path):
    report = plane(9, Rows=None, Columns=None)
    report.SeriesInstanceUID = generate_uid()
    folder = series(tmp_path / "in")
    save(report, folder / "report.dcm")
    (folder / "inner").mkdir()
    assert np.array_equal(read(folder, tmp_path).stored, VOXELS)


def test_a_file_of_many_frames(tmp_path):
    save(many(), tmp_path / "a.dcm")
    volume = dicom.read_file(tmp_path / "a.dcm", tmp_path, Limits(), "a.dcm")
    assert np.array_equal(volume.stored, VOXELS)
    assert (volume.slope, volume.intercept) == (2.0, -1024.0)
    assert np.allclose(volume.grid.affine, expected_affine(), rtol=0, atol=1e-8)
    assert volume.source == [tmp_path / "a.dcm"]


def test_frames_without_positions(tmp_path):
    save(many(PerFrameFunctionalGroupsSequence=[]), tmp_path / "a.dcm")
    with pytest.raises(VolumeGeometryError, match="frames without positions"):
        dicom.read_file(tmp_path / "a.dcm", tmp_path, Limits(), "a.dcm")


def test_a_single_plane(tmp_path):
    save(plane(0), tmp_path / "a.dcm")
    with pytest.raises(VolumeShapeError, match="whole series"):
        dicom.read_file(tmp_path / "a.dcm", tmp_path, Limits(), "a.dcm")


def test_several_series(tmp_path):
    other = generate_uid()
    planes = [*(plane(number) for number in range(3)), plane(3, SeriesInstanceUID=other, SeriesDescription="scout")]
    with pytest.raises(VolumeError, match=r"several series.*3 planes of CT tiny .*1 planes of CT scout"):
        read(series(tmp_path / "in", planes), tmp_path)


def test_nothing_there(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(VolumeError, match="no pictures"):
        read(tmp_path / "in", tmp_path)


def moved(number, z=0.0, y=0.0):
    return plane(number, ImagePositionPatient=[float(value) for value in np.add(ORIGIN, (0, y, STEP * number + z))])


@pytest.mark.parametrize(
    ("planes", "error", "text"),
    [
        (lambda: [plane(0), plane(1), plane(2), plane(2)], VolumeGeometryError, "one place"),
        (lambda: [plane(0), plane(0), plane(0), plane(0)], VolumeGeometryError, "one place"),
        (lambda: [plane(0), plane(1), plane(2), moved(3, STEP)], VolumeGeometryError, r"1 plane missing.*2\.500 mm.*5\.000 mm"),
        (lambda: [plane(0), plane(1), plane(2), moved(3, 0.8)], VolumeGeometryError, r"uneven.*2\.500 mm.*3\.300 mm"),
        (lambda: [moved(number, y=number) for number in range(4)], VolumeGeometryError, r"gantry.*degrees"),
        (lambda: [plane(0), plane(1, ImageOrientationPatient=[1, 0, 0, 0, 1, 0])], VolumeGeometryError, "orientation"),
        (lambda: [plane(0), plane(1, ImageOrientationPatient=[2, 0, 0, 0, 1, 0])], VolumeGeometryError, "directions"),
        (lambda: [plane(0), plane(1, ImageOrientationPatient=None)], VolumeGeometryError, "ImageOrientationPatient"),
        (lambda: [plane(0), plane(1, ImagePositionPatient=None)], VolumeGeometryError, "ImagePositionPatient"),
        (lambda: [plane(0), plane(1, PixelSpacing=None)], VolumeGeometryError, "PixelSpacing"),
        (lambda: [plane(0), plane(1, PixelSpacing=[1, 1])], VolumeGeometryError, "spacing"),
        (lambda: [plane(0), plane(1, Rows=5, Columns=6)], VolumeGeometryError, "size"),
        (lambda: [plane(0), plane(1, PixelRepresentation=0)], VolumeGeometryError, "type of pixels"),
        (lambda: [plane(0), plane(1, SamplesPerPixel=3)], VolumeError, "3 of 16 bits"),
        (lambda: [plane(0), plane(1, BitsAllocated=1)], VolumeError, "1 of 1 bits"),
        (lambda: [plane(0), plane(1, Rows=0)], VolumeError, "sizes"),
        (lambda: [plane(0), plane(1, PixelData=None)], VolumeError, "pixels cannot be read"),
        (lambda: [plane(0), plane(1, PixelData=VOXELS[0].tobytes()[:20])], VolumeError, "pixels cannot be read"),
    ],
)
def test_refused(tmp_path, planes, error, text):
    with pytest.raises(error, match=text):
        read(series(tmp_path / "in", planes()), tmp_path)


def test_limits_before_anything_is_unpacked(tmp_path):
    folder = series(tmp_path / "in")
    with pytest.raises(VolumeTooLargeError, match="119 voxels"):
        read(folder, tmp_path, voxels=119)
    with pytest.raises(VolumeTooLargeError, match="bytes"):
        read(folder, tmp_path, bytes=239)
    assert not (tmp_path / "scratch" / "voxels").exists()


def test_a_file_that_ends_early(tmp_path):
    folder = series(tmp_path / "in", [plane(number, Rows=512, Columns=512) for number in range(2)])
    with pytest.raises(VolumeTruncatedError, match="524,288"):
        read(folder, tmp_path)


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.100", "1.2.3.4"])
def test_pixels_that_cannot_be_unpacked(tmp_path, uid):
    planes = [plane(number) for number in range(2)]
    for each in planes:
        each.PixelData = pydicom.encaps.encapsulate([b"\0" * 20])
        each["PixelData"].VR, each["PixelData"].is_undefined_length = "OB", True
        each.file_meta.TransferSyntaxUID = uid
    folder = tmp_path / "in"
    folder.mkdir()
    for number, each in enumerate(planes):
        pydicom.dcmwrite(folder / f"{number}.dcm", each, implicit_vr=False, little_endian=True, enforce_file_format=True)
    with pytest.raises(VolumeError, match=rf"transfer syntax.*{uid}.*uncompressed"):
        read(folder, tmp_path)


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_labels_as_highdicom_reads_them(tmp_path, frames, dtype):
    if frames:
        (tmp_path / "in").mkdir()
        save(many(), tmp_path / "in" / "a.dcm")
    volume = read(tmp_path / "in" if frames else series(tmp_path / "in"), tmp_path)
    labels = np.zeros(VOXELS.shape, dtype)
    labels[1, 2:4, 1:3], labels[2, 0, 0] = 1, 2
    dicom_seg.write(labels, volume, tmp_path / ".x.a.dcm", ["background", "liver", "a very long name " * 5, "never"])
    with warnings.catch_warnings(action="ignore"):
        import highdicom

        segmentation = highdicom.seg.segread(tmp_path / ".x.a.dcm")
        grid = segmentation.get_volume(combine_segments=True)
    descriptions = [segmentation.get_segment_description(number) for number in segmentation.segment_numbers]
    assert [each.segment_label for each in descriptions] == ["liver", ("a very long name " * 5)[:64], "never"]
    told = {str(uid) for _, _, uid in segmentation.get_source_image_uids()}
    assert told == {str(pydicom.dcmread(path).SOPInstanceUID) for path in volume.source}
    # highdicom leaves out planes without labels and says where each that it keeps lies: compare point by point, both ways.
    affine = LPS_TO_RAS @ np.asarray(grid.affine)  # of (plane, row, column)
    placed = {}
    for index, value in np.ndenumerate(np.asarray(grid.array)):
        if value:
            placed[tuple(np.round((affine @ [*index, 1])[:3], 5) + 0.0)] = int(value)
    wanted = {}
    for (z, y, x), value in np.ndenumerate(labels):
        if value:
            wanted[tuple(np.round((volume.grid.affine @ [x, y, z, 1])[:3], 5) + 0.0)] = int(value)
    assert placed == wanted


def test_labels_of_nothing_but_background(tmp_path):
    volume = read(series(tmp_path / "in"), tmp_path)
    dicom_seg.write(np.zeros(VOXELS.shape, np.uint8), volume, tmp_path / "a.dcm", ["background", "liver"])
    assert not pydicom.dcmread(tmp_path / "a.dcm").pixel_array.any()


def test_a_series_without_a_study_carries_no_labels(tmp_path):
    planes = [plane(number) for number in range(4)]
    for each in planes:
        del each.StudyInstanceUID
    volume = read(series(tmp_path / "in", planes), tmp_path)
    with pytest.raises(VolumeError, match=r"StudyInstanceUID.*\.nii\.gz"):
        dicom_seg.write(np.zeros(VOXELS.shape, np.uint8), volume, tmp_path / "a.dcm", ["background", "liver"])


@pytest.mark.parametrize("kind", ["series", "many", "packed"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_an_input_error(tmp_path, kind, data):
    folder = tmp_path / "in"
    if not folder.exists():
        planes = [many()] if kind == "many" else [plane(number) for number in range(2)]
        for each in planes if kind == "packed" else []:
            each.compress(RLELossless, generate_instance_uid=False)
        series(folder, planes)
    path, kept = folder / "c.dcm", tmp_path / "kept"
    if not kept.exists():
        kept.write_bytes(path.read_bytes())
    whole = bytearray(kept.read_bytes())
    for place in data.draw(st.lists(st.integers(128, len(whole) - 1), max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.sampled_from([len(whole), data.draw(st.integers(0, len(whole)))]))])
    with contextlib.suppress(InputError):
        opened = read(folder, tmp_path, bytes=2**24)
        assert np.asarray(opened.stored).shape == opened.grid.shape
