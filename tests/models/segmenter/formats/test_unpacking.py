from __future__ import annotations

import errno
import gzip
import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import VolumeError, VolumeShapeError, VolumeTruncatedError
from models.segmenter.formats.unpacking import OURS, Unpacked, guarded, map_raw, unpack


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4), st.lists(st.integers(0, 100), max_size=5), st.integers(0, 9))
def test_pieces_of_any_size_are_what_gzip_unpacks(parts, sizes, zeros):
    packed = bytes(zeros).join(gzip.compress(part, mtime=0) for part in parts)
    stream, whole = Unpacked(io.BytesIO(packed), "scan"), io.BytesIO(gzip.decompress(packed))
    for size in sizes:
        assert stream.read(size) == whole.read(size)
    assert stream.read(10**6) == whole.read()
    assert stream.read(1) == b""
    assert stream.complete


def test_members_follow_one_another_however_the_file_is_read(monkeypatch):
    monkeypatch.setattr("models.segmenter.formats.unpacking.PIECE", 1)
    packed = gzip.compress(b"abc") + bytes(3) + gzip.compress(b"def")
    assert Unpacked(io.BytesIO(packed), "scan").read(100) == gzip.decompress(packed) == b"abcdef"


def test_skipping_tells_whether_there_was_enough():
    packed = zlib.compress(b"abcdef")
    assert Unpacked(io.BytesIO(packed), "scan").skip(6)
    assert not Unpacked(io.BytesIO(packed), "scan").skip(7)
    stream = Unpacked(io.BytesIO(packed), "scan")
    assert stream.skip(2)
    assert stream.read(2) == b"cd"


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_unpacked_voxels_need_their_checksum(tmp_path, pack):
    packed = pack(bytes(range(6)))
    stored = unpack(Unpacked(io.BytesIO(packed), "scan"), tmp_path / "voxels", (1, 2, 3), np.uint8, "scan")
    assert stored.tolist() == [[[0, 1, 2], [3, 4, 5]]]
    for kept in range(len(packed)):
        with pytest.raises(VolumeTruncatedError, match=r"^scan: "):
            unpack(Unpacked(io.BytesIO(packed[:kept]), "scan"), tmp_path / "voxels", (1, 2, 3), np.uint8, "scan")


def test_no_more_is_unpacked_than_is_needed(tmp_path):
    packed = gzip.compress(bytes(10**6))
    unpack(Unpacked(io.BytesIO(packed), "scan"), tmp_path / "voxels", (1, 2, 3), np.int16, "scan")
    assert (tmp_path / "voxels").stat().st_size == 12


def test_mapped_voxels_are_those_of_the_file(tmp_path):
    (tmp_path / "raw").write_bytes(b"xx" + np.arange(6, dtype=">i2").tobytes())
    assert map_raw(tmp_path / "raw", 2, (1, 2, 3), ">i2", "scan").ravel().tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(VolumeTruncatedError, match="expected 12 bytes of voxels, got 11"):
        map_raw(tmp_path / "raw", 3, (1, 2, 3), ">i2", "scan")
    with pytest.raises(VolumeTruncatedError, match="got 0"):
        map_raw(tmp_path / "raw", 10**6, (1, 2, 3), ">i2", "scan")


@pytest.mark.parametrize(
    "error", [zlib.error("bad"), ValueError("bad"), OSError("bad"), OSError(errno.EINVAL, "bad"), MemoryError()]
)
def test_what_libraries_say_of_damaged_bytes_is_a_volume_error(error):
    with (
        pytest.raises(VolumeError, match=r"^scan: cannot be read: got .*Mend it\.$") as caught,
        guarded("scan", "cannot be read", "Mend it."),
    ):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("number", sorted(OURS))
def test_errors_of_the_machine_pass_through(number):
    with pytest.raises(OSError, match="ours") as caught, guarded("scan", "cannot be read"):
        raise OSError(number, "ours")
    assert caught.value.errno == number


def test_errors_for_people_pass_through():
    with pytest.raises(VolumeShapeError), guarded("scan", "cannot be read"):
        raise VolumeShapeError("not a volume")
