"""What is behind the segmenter's endpoints, and the command line's way to the same predictor, without a server."""

from __future__ import annotations

import json

import numpy as np
import pytest

from models.errors import UnavailableError, UnprocessableError
from models.segmenter import Segmenter
from models.segmenter.preview import draw
from services.pool import Job
from services.segmentation import Segmentation, SegmentForm, parse_spacing, segment_upload
from services.service import UnknownModelError
from services.settings import Settings
from services.uploads import Upload
from services.workspace import Workspace, Workspaces, remove_folder
from tests.scans import ball, save


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tiny_segmenter):
    return tiny_segmenter(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def segmenter(bundle):
    return Segmenter.load(bundle)


def test_a_network_for_other_volumes_is_never_guessed(segmenter):
    both = Segmentation({"a": segmenter, "b": segmenter}, Settings())
    assert both.choose("b") is segmenter
    for model in (None, "c"):
        with pytest.raises(UnknownModelError, match="one of a, b"):
            both.choose(model)
    assert Segmentation({"a": segmenter}, Settings()).choose(None) is segmenter
    with pytest.raises(UnavailableError, match="no segmenter bundle"):
        Segmentation({}, Settings()).choose(None)


@pytest.mark.parametrize("text", ["1", "1,2", "1,2,3,4", "a,b,c", "0,1,1", "-1,1,1", "inf,1,1", "nan,1,1"])
def test_a_spacing_is_three_numbers(text):
    with pytest.raises(UnprocessableError, match="not a spacing"):
        parse_spacing(text)
    assert parse_spacing("3, 1,0.5") == (3.0, 1.0, 0.5)
    assert parse_spacing("") is None


@pytest.mark.parametrize(
    ("fields", "name", "kind"),
    [
        ({}, "scan-labels.nii.gz", "application/gzip"),
        ({"format": "nrrd"}, "scan-labels.nrrd", "application/octet-stream"),
        ({"output": "preview"}, "scan-preview.png", "image/png"),
        ({"output": "summary"}, "scan-summary.json", "application/json"),
    ],
)
def test_a_call_makes_one_file_beside_its_upload(tmp_path, segmenter, fields, name, kind):
    workspace = Workspace(tmp_path, remove_folder)
    source = save(workspace.path / "upload.nii.gz", ball()[0])
    job = Job()
    upload = Upload(source.rename(workspace.path / "upload"), "../x/scan.nii.gz")
    made = segment_upload(segmenter, upload, SegmentForm(**fields), None, workspace, Settings(), job)
    assert (made.name, made.kind, job.progress) == (name, kind, 1.0)
    assert sorted(path.name for path in workspace.path.iterdir()) == sorted([made.path.name, "upload"])
    if "summary" in name:
        about = json.loads(made.path.read_text())
        assert [each["name"] for each in about["classes"]] == ["background", "middle", "bright"]
        assert sum(each["voxels"] for each in about["classes"]) == ball()[0].size


def test_dicom_is_made_of_dicom_only(tmp_path, segmenter):
    workspaces = Workspaces(tmp_path)
    workspace = workspaces.new()
    upload = Upload(save(workspace.path / "a.nii", ball()[0]), "a.nii")
    with pytest.raises(UnprocessableError, match="DICOM SEG needs a DICOM series"):
        segment_upload(segmenter, upload, SegmentForm(format="dcm"), None, workspace, Settings(), Job())
    workspaces.close()


def test_a_preview_shows_the_labels_in_true_proportions(tmp_path, segmenter):
    import io

    from PIL import Image

    from models.segmenter.formats import open_volume

    values, labels = ball((10, 20, 20))
    volume = open_volume(save(tmp_path / "v.nii", values, np.diag([1.0, 1, 2, 1])), tmp_path)
    plain = np.asarray(Image.open(io.BytesIO(draw(volume, np.zeros_like(labels)))).convert("RGB")).astype(int)
    shown = np.asarray(Image.open(io.BytesIO(draw(volume, labels))).convert("RGB")).astype(int)
    assert plain.shape == (320, 3 * 320 + 16, 3)  # all three planes are square: 20 × 20, 20 × 2·10, 20 × 2·10 mm
    coloured = np.abs(shown - shown.mean(2, keepdims=True)).max(2) > 20
    assert 0.2 < coloured[:, :320].mean() < 0.6
    assert not (np.abs(plain - plain.mean(2, keepdims=True)).max(2) > 20).any()
