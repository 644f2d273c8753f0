from __future__ import annotations

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner

from convoy import cli
from models.errors import ConfigError
from models.segmenter import Segmenter
from services.batch.volumes import VolumeHandler, Wanted, default_segmenter
from tests.scans import ball, save


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tiny_segmenter):
    return tiny_segmenter(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def segmenter(bundle):
    return Segmenter.load(bundle)


def test_files_keep_their_tree_and_a_bad_one_does_not_stop_the_others(tmp_path, segmenter, work_through):
    values, _ = ball()
    for name in ("a/one.nii.gz", "b/two.nii"):
        save(tmp_path / "in" / name, values)
    (tmp_path / "in/a/bad.nii.gz").write_bytes(b"\x1f\x8b nothing")
    handler = VolumeHandler(segmenter, Wanted(preview=True, summary=True))
    bad, one, two = work_through("segment", [tmp_path / "in"], tmp_path / "out", handler)
    assert [output.path for output in one.outputs] == ["a/one.json", "a/one.nii.gz", "a/one.png"]
    assert [output.path for output in two.outputs] == ["b/two.json", "b/two.nii.gz", "b/two.png"]
    assert bad.error["message"].startswith(f"{tmp_path}/in/a/bad.nii.gz: ")
    assert one.facts["voxels"] == values.size
    assert set(one.facts["classes"]) == {"middle", "bright"}
    assert {amount.split()[1] for amount in one.facts["classes"].values()} == {"ml"}


def test_the_same_name_twice_is_refused(tmp_path, segmenter, work_through):
    for name in ("one.nii.gz", "one.nii"):
        save(tmp_path / "in" / name, ball()[0])
    with pytest.raises(ConfigError, match="two inputs have the same output"):
        work_through("segment", [tmp_path / "in"], tmp_path / "out", VolumeHandler(segmenter, Wanted()))
    source = save(tmp_path / "alone/x.nii.gz", ball()[0])
    with pytest.raises(ConfigError, match="overwrite its input"):
        segmenter.segment_file(source, source)
    with pytest.raises(ConfigError, match="overwrite its input"):
        work_through("segment", [source], tmp_path / "alone", VolumeHandler(segmenter, Wanted()))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".tif", ".zarr"])
def test_the_same_volume_makes_the_same_bytes(tmp_path, segmenter, work_through, suffix):
    source = save(tmp_path / "x.nii.gz", ball()[0])
    handler = VolumeHandler(segmenter, Wanted(suffix, preview=True, summary=True))
    first, second = (work_through("segment", [source], tmp_path / out, handler)[0] for out in ("a", "b"))
    assert first.outputs == second.outputs
    assert len(first.outputs) >= 3


def test_the_command_line_segments(tmp_path, bundle):
    source = save(tmp_path / "scan.nii.gz", ball()[0], np.diag([2.0, 1, 1, 1]))
    result = CliRunner().invoke(cli, ["segment", str(source), "--out", str(tmp_path / "out"), "--bundle", str(bundle)])
    assert result.exit_code == 0, result.output
    labels = nibabel.load(tmp_path / "out/scan.nii.gz")
    assert np.array_equal(labels.affine, nibabel.load(source).affine)
    assert set(np.unique(labels.dataobj)) == {0, 1, 2}
    result = CliRunner().invoke(cli, ["segment", str(source), "--out", str(tmp_path), "--bundle", str(bundle), "--spacing", "a"])
    assert result.exit_code == 2
    assert "not a spacing" in result.output


def test_which_bundle_is_said_where_there_are_several(tmp_path):
    assert default_segmenter([tmp_path]) == str(tmp_path)
    for folders in ([], [tmp_path, tmp_path / "b"]):
        with pytest.raises(ConfigError, match="which bundle"):
            default_segmenter(folders)
