"""OME-Zarr images made with zarr, label images, and what is neither."""

import contextlib
import json
import shutil
import warnings

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import (
    InputError,
    VolumeError,
    VolumeGeometryError,
    VolumeKindError,
    VolumeShapeError,
    VolumeTooLargeError,
)
from models.segmenter.formats import ome_zarr
from models.segmenter.grid import Grid
from models.segmenter.volume import Limits, Volume

VOXELS = np.random.default_rng(0).integers(0, 1000, (5, 7, 9)).astype(np.uint16)


def multiscales(axes="zyx", unit="micrometer", scale=(2.0, 0.5, 0.25), translation=None, path="0"):
    kinds = {"t": "time", "c": "channel"}
    told = [{"name": name, "type": kinds.get(name, "space")} for name in axes]
    for axis in told:
        if unit and axis["type"] == "space":
            axis["unit"] = unit
    extra = [1.0] * (len(axes) - 3)
    transformations = [{"type": "scale", "scale": [*extra, *scale]}]
    if translation:
        transformations.append({"type": "translation", "translation": [*(0.0 for _ in extra), *translation]})
    return {"axes": told, "datasets": [{"path": path, "coordinateTransformations": transformations}]}


def made(folder, voxels=VOXELS, version="0.4", attributes=None, chunks=(2, 3, 4), shards=None, **about):
    old = version == "0.4"
    with warnings.catch_warnings(action="ignore"):
        group = zarr.open_group(folder, mode="w", zarr_format=2 if old else 3)
        told = {"multiscales": [multiscales(**about) | ({"version": version} if old else {})]}
        told = told if old else {"ome": {"version": version, **told}}
        group.attrs.update(told if attributes is None else attributes)
        extra = (1,) * (voxels.ndim - 3)
        kind = {"name": "v2", "separator": "/"} if old else {"name": "default", "separator": "/"}
        array = group.create_array(
            "0", shape=voxels.shape, chunks=(*extra, *chunks), shards=shards, dtype=voxels.dtype, chunk_key_encoding=kind
        )
        array[:] = voxels
    return folder


def read(folder, tmp_path, **limits):
    (scratch := tmp_path / "scratch").mkdir(exist_ok=True)
    return ome_zarr.read_folder(folder, scratch, Limits(**limits), "an image")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["zyx", "czyx", "tczyx"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4"])
def test_an_image(tmp_path, version, axes, dtype):
    voxels = VOXELS.astype(dtype)
    folder = made(tmp_path / "a.zarr", voxels.reshape((1,) * (len(axes) - 3) + voxels.shape), version, axes=axes)
    volume = read(folder, tmp_path)
    assert volume.kind == "zarr"
    assert volume.stored.dtype == voxels.dtype
    assert np.array_equal(volume.stored, voxels)
    assert volume.grid.affine is None
    assert volume.grid.distances == pytest.approx((0.002, 0.0005, 0.00025))
    assert volume.notes


def test_shards(tmp_path):
    folder = made(tmp_path / "a.zarr", version="0.5", chunks=(1, 2, 2), shards=(4, 4, 4))
    assert np.array_equal(read(folder, tmp_path).stored, VOXELS)


def test_scale_of_the_whole_image(tmp_path):
    about = multiscales(unit="millimeter") | {"coordinateTransformations": [{"type": "scale", "scale": [2.0, 3.0, 4.0]}]}
    folder = made(tmp_path / "a.zarr", attributes={"multiscales": [about | {"version": "0.4"}]})
    assert read(folder, tmp_path).grid.distances == (4.0, 1.5, 1.0)


def test_without_units(tmp_path):
    volume = read(made(tmp_path / "a.zarr", unit=None), tmp_path)
    assert volume.grid.spacing is None
    assert "unit" in volume.notes[0]


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 9), (3, 100, 2)])
@pytest.mark.parametrize("chunk", [(1, 1, 1), (2, 3, 4), (64, 64, 64)])
@pytest.mark.parametrize("slab", [1, 64, 4096])
def test_blocks_cover_all_once(monkeypatch, shape, chunk, slab):
    monkeypatch.setattr(ome_zarr, "SLAB", slab)
    seen = np.zeros(shape, int)
    for block in ome_zarr._blocks(shape, chunk, 2):
        seen[block] += 1
        assert all(part.start % size == 0 for part, size in zip(block, chunk, strict=True))
        assert seen[block].size * 2 <= max(slab, np.prod(chunk) * 2)
    assert (seen == 1).all()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels(tmp_path, version):
    folder = made(tmp_path / "a.zarr", VOXELS[None], version, axes="czyx", translation=(1.0, 2.0, 3.0))
    volume = read(folder, tmp_path)
    labels = (VOXELS % 3).astype(np.uint8)
    ome_zarr.write(labels, volume, tmp_path / ".x.b.zarr", ["background", "a", "b"])
    (tmp_path / "again").mkdir()
    again = ome_zarr.read_folder(tmp_path / ".x.b.zarr", tmp_path / "again", Limits(), "labels")
    assert np.array_equal(again.stored, labels)
    assert again.grid.distances == volume.grid.distances
    assert again.source.translation == (1.0, 2.0, 3.0)
    group = zarr.open_group(tmp_path / ".x.b.zarr", mode="r")
    assert group.metadata.zarr_format == (2 if version == "0.4" else 3)
    about = group.attrs.asdict() if version == "0.4" else group.attrs["ome"]
    assert about["image-label"]["properties"][1] == {"label-value": 1, "name": "a"}
    assert (about if version == "0.5" else about["multiscales"][0])["version"] == version
    assert group["0"].metadata.chunk_key_encoding.separator == "/" if version == "0.5" else True
    assert (tmp_path / ".x.b.zarr" / "0" / ("c/0/0/0" if version == "0.5" else "0/0/0")).is_file()


@pytest.mark.parametrize("distances", [None, (2.0, 0.5, 0.25)])
def test_labels_of_another_kind_of_volume(tmp_path, distances):
    labels = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    ome_zarr.write(labels, Volume("v", "tiff", Grid((2, 3, 4), distances=distances), labels), tmp_path / "a.zarr", ["b"])
    volume = read(tmp_path / "a.zarr", tmp_path)
    assert np.array_equal(volume.stored, labels)
    assert volume.grid.spacing == distances


@pytest.mark.parametrize(
    ("about", "error", "text"),
    [
        ({"axes": "yxz"}, VolumeShapeError, "z, y, x"),
        ({"axes": "qyx"}, VolumeShapeError, "z, y, x"),
        ({"scale": (1.0, 1.0, 0.0)}, VolumeError, "scale"),
        ({"scale": (1.0, 1.0)}, VolumeError, "malformed"),
        ({"scale": (1.0, 1.0, float("nan"))}, VolumeError, "malformed"),
        ({"path": "../a.zarr/0"}, VolumeError, "elsewhere"),
        ({"path": "/etc"}, VolumeError, "elsewhere"),
        ({"path": "1"}, VolumeError, "missing"),
    ],
)
def test_refused(tmp_path, about, error, text):
    with pytest.raises(error, match=text):
        read(made(tmp_path / "a.zarr", **about), tmp_path)


@pytest.mark.parametrize(
    ("attributes", "error", "text"),
    [
        ({}, VolumeKindError, "multiscales"),
        ({"multiscales": 5}, VolumeError, "malformed"),
        ({"multiscales": [{}]}, VolumeError, "malformed"),
        ({"multiscales": [multiscales() | {"version": "0.1"}]}, VolumeError, r"0\.1"),
        ({"multiscales": [multiscales() | {"axes": ["z", "y", "x"]}]}, VolumeError, "malformed"),
        ({"multiscales": [multiscales() | {"datasets": []}]}, VolumeError, "malformed"),
        ({"plate": {}}, VolumeKindError, "no image"),
    ],
)
def test_malformed_metadata(tmp_path, attributes, error, text):
    with pytest.raises(error, match=text):
        read(made(tmp_path / "a.zarr", attributes=attributes), tmp_path)


def test_several_channels(tmp_path):
    with pytest.raises(VolumeShapeError, match="each alone"):
        read(made(tmp_path / "a.zarr", np.stack([VOXELS, VOXELS]), axes="czyx"), tmp_path)


def test_another_number_of_axes(tmp_path):
    with pytest.raises(VolumeError, match="axes"):
        read(made(tmp_path / "a.zarr", VOXELS, axes="czyx"), tmp_path)


def test_not_a_group(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(VolumeKindError):
        read(tmp_path / "in", tmp_path)
    (tmp_path / "in" / ".zattrs").write_text("[" * 100_000)
    with pytest.raises(VolumeError, match="JSON"):
        read(tmp_path / "in", tmp_path)


def test_limits_before_anything_is_unpacked(tmp_path):
    folder = made(tmp_path / "a.zarr")
    with pytest.raises(VolumeTooLargeError, match="voxels"):
        read(folder, tmp_path, voxels=VOXELS.size - 1)
    with pytest.raises(VolumeTooLargeError, match="bytes"):
        read(folder, tmp_path, bytes=VOXELS.nbytes - 1)
    array = json.loads((folder / "0" / ".zarray").read_text())
    (folder / "0" / ".zarray").write_text(json.dumps(array | {"chunks": [2**10, 2**10, 2**10]}))
    with pytest.raises(VolumeError, match="chunks"):
        read(folder, tmp_path)
    (folder / "0" / ".zarray").write_text(json.dumps(array | {"shape": [1000, 1000, 1000], "chunks": [1, 1, 1]}))
    with pytest.raises(VolumeTooLargeError, match="1,000,000,000"):
        read(folder, tmp_path)
    assert not (tmp_path / "scratch" / "voxels").exists()


def test_a_damaged_chunk(tmp_path):
    folder = made(tmp_path / "a.zarr")
    (folder / "0" / "0" / "0" / "0").write_bytes(b"nothing")
    with pytest.raises(VolumeError, match="cannot be read"):
        read(folder, tmp_path)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_an_input_error(tmp_path, version, data):
    whole, folder = tmp_path / "whole.zarr", tmp_path / "a.zarr"
    if not whole.exists():
        made(whole, VOXELS[:2, :3, :4], version)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    path = data.draw(st.sampled_from(sorted(each for each in folder.rglob("*") if each.is_file())))
    damaged = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=3)):
        damaged[place] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.sampled_from([len(damaged), data.draw(st.integers(0, len(damaged)))]))])
    with contextlib.suppress(InputError, VolumeGeometryError):
        opened = read(folder, tmp_path, bytes=2**20)
        assert opened.stored.shape == opened.grid.shape
