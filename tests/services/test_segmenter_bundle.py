"""The gateway over a small real segmenter: volumes come back labelled on their own grid, bad ones get their 4xx, memory flat."""

from __future__ import annotations

import gzip
import io
import struct
import time
import zipfile

import httpx
import nibabel
import numpy as np
import psutil
import pytest
import serving

from tests.scans import ball, save


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_segmenter):
    folder, place = tmp_path_factory.mktemp("bundles"), tmp_path_factory.mktemp("temporary")
    tiny_segmenter(folder, name="segmenter")
    environment = {"CONVOY_BUNDLES": str(folder), "CONVOY_TEMPORARY": str(place), "CONVOY_MAX_VOLUME_BYTES": "3000000"}
    with serving.serving("services.gateway:Gateway", tmp_path_factory.mktemp("server"), environment) as running:
        yield running
    assert list(place.iterdir()) == []


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    affine = np.array([[0, -2.0, 0, 30], [1.0, 0, 0, -7], [0, 0, -1.5, 9], [0, 0, 0, 1]])
    return save(tmp_path_factory.mktemp("scan") / "scan.nii.gz", ball()[0], affine)


def post(server, content, name="scan.nii.gz", path="/segment", **fields):
    return httpx.post(f"{server.url}{path}", files={"volume": (name, content)}, data=fields, timeout=60)


def opened(content):
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(content))


def assert_still_answering(server, scan):
    labels = opened(post(server, scan.read_bytes()).raise_for_status().content)
    assert np.array_equal(labels.affine, nibabel.load(scan).affine)
    assert set(np.unique(labels.dataobj)) == {0, 1, 2}


def test_a_volume_comes_back_labelled_on_its_own_grid(server, scan):
    assert_still_answering(server, scan)
    answer = post(server, scan.read_bytes(), "misleading.txt")
    assert answer.headers["content-type"] == "application/gzip"
    assert "misleading-labels.nii.gz" in answer.headers["content-disposition"]
    summary = post(server, scan.read_bytes(), output="summary").raise_for_status().json()
    assert summary["spacing"] == [1.5, 2.0, 1.0]
    assert sum(each["millilitres"] for each in summary["classes"]) == pytest.approx(ball()[0].size * 3 / 1000)
    assert post(server, scan.read_bytes(), output="preview").raise_for_status().content.startswith(b"\x89PNG")
    [entry] = httpx.get(f"{server.url}/models").json()["models"]
    assert entry["classes"] == ["background", "middle", "bright"]


def test_a_zip_with_one_volume_and_a_bare_body_do_as_well(server, scan):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(scan, "inside/scan.nii.gz")
    through_zip = post(server, packed.getvalue(), "a.zip").raise_for_status().content
    bare = httpx.post(
        f"{server.url}/segment", content=scan.read_bytes(), headers={"Content-Type": "application/gzip"}, timeout=60
    )
    assert through_zip == bare.raise_for_status().content


def test_a_task_is_submitted_asked_for_and_fetched(server, scan):
    task = post(server, scan.read_bytes(), path="/segment/submit").raise_for_status().json()["task_id"]
    deadline = time.monotonic() + 60
    while (asked := httpx.get(f"{server.url}/segment/status", params={"task_id": task}).json())["status"] != "completed":
        assert asked["status"] in ("pending", "in_progress")
        assert time.monotonic() < deadline
        time.sleep(0.1)
    content = httpx.get(f"{server.url}/segment/get", params={"task_id": task}).raise_for_status().content
    assert content == post(server, scan.read_bytes()).content
    assert httpx.get(f"{server.url}/segment/status", params={"task_id": "nobody's"}).status_code == 404


def header(shape, dtype=np.int16, kind=nibabel.Nifti1Image):
    """A NIfTI header of any shape, and no voxels."""
    head = kind(np.zeros((1, 1, 1), dtype), np.eye(4)).header.copy()
    head["dim"][0] = len(shape)
    head["dim"][1 : 1 + len(shape)] = shape
    head["vox_offset"] = head.single_vox_offset
    return head.binaryblock + bytes(4)


def endless():
    """Of 64 MB when unpacked, in 64 KB; its header promises 8 voxels too many for what follows of it."""
    return gzip.compress(header((30_000, 30_000, 30_000)) + bytes(2**26), 1)


NAN = ball()[0]
NAN[2, 2, 2] = np.nan
BAD = {
    "not a volume": (lambda scan: b"%PDF-1.7 " * 100, 415, "volume_unsupported"),
    "a text": (lambda scan: b"http://127.0.0.1:9/scan.nii", 415, "volume_unsupported"),
    "truncated": (lambda scan: scan[:-300], 400, "volume_"),
    "a gzip of a text": (lambda scan: gzip.compress(b"x" * 1000), 415, "volume_unsupported"),
    "a bomb": (lambda scan: endless(), 413, "volume_too_large"),
    "65535 cubed": (lambda scan: header((65_535,) * 3, kind=nibabel.Nifti2Image), 413, "volume_too_large"),
    "32767 cubed": (lambda scan: gzip.compress(header((32_767,) * 3)), 413, "volume_too_large"),
    "two axes": (lambda scan: header((100, 100)) + bytes(20_000), 422, "volume_shape"),
    "four axes": (lambda scan: header((10, 10, 10, 5)) + bytes(10_000), 422, "volume_shape"),
    "NaN": (lambda scan: nibabel.Nifti1Image(NAN.T, np.eye(4)).to_bytes(), 422, "volume_values"),
    "no voxels": (lambda scan: header((10, 10, 10)), 400, "volume_truncated"),
    "more bytes than allowed": (lambda scan: bytes(3_100_000), 413, ""),
    "a TIFF without spacing": (lambda scan: tiff(), 422, "volume_geometry"),
}


def tiff():
    import tifffile

    tifffile.imwrite(file := io.BytesIO(), np.zeros((5, 6, 7), np.uint8), photometric="minisblack")
    return file.getvalue()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_volume_is_refused_and_the_next_good_one_answered(server, scan, name):
    make, status, code = BAD[name]
    process = psutil.Process(server.process.pid)
    family = [process, *process.children(recursive=True)]
    before = sum(each.memory_info().rss for each in family)
    answer = post(server, make(scan.read_bytes()))
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"].startswith(code)
    assert error["message"]
    assert sum(each.memory_info().rss for each in family) - before < 60e6
    assert_still_answering(server, scan)


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"model": "x"}, 422), ({"spacing": "1,2"}, 422), ({"output": "x"}, 400), ({"flips": "q"}, 400), ({"format": "dcm"}, 422)],
)
def test_fields_that_mean_nothing(server, scan, fields, status):
    assert post(server, scan.read_bytes(), **fields).status_code in {status, 422}


def test_spacing_that_the_file_does_not_say_is_given(server):
    answer = post(server, tiff(), "a.tif", spacing="1,1,1").raise_for_status()
    assert answer.headers["content-type"] == "image/tiff"
    assert "far its voxels" in answer.headers.get("x-volume-notes", "")
    assert struct.unpack("<2s", answer.content[:2]) == (b"II",)
