from __future__ import annotations

import io
import os
import struct

import numpy as np
import pytest
import soundfile

from models.errors import ConfigError
from models.separator import writing
from models.separator.containers import read_wav
from models.separator.writing import Target, write_voices

NAMES = ["speaker_1", "speaker_2"]


def voices(peak=0.5, samples=5000):
    made = np.random.default_rng(0).uniform(-1, 1, (2, samples)).astype(np.float32)
    made[1] *= 0.1
    return (peak * made / np.abs(made).max()).astype(np.float32)


def blocks(made):
    yield from np.array_split(made, 7, axis=1)


def read(written):
    return np.concatenate([soundfile.read(path, dtype="float64", always_2d=True)[0] for path in written.paths], axis=1).T


@pytest.mark.parametrize("layout", ["channels", "files"])
@pytest.mark.parametrize(
    ("name", "subtype", "kind", "step"),
    [
        ("a.wav", None, "FLOAT", 0),
        ("a.WAV", "PCM_16", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", "PCM_24", 2**-23),
        ("a.flac", None, "PCM_24", 2**-23),
        ("a.flac", "PCM_16", "PCM_16", 2**-15),
    ],
)
@pytest.mark.parametrize("peak", [0.5, 1500.0])
def test_what_is_written_is_what_was_given(tmp_path, layout, name, subtype, kind, step, peak):
    """Nothing clips: floats hold anything, and integers are scaled all together."""
    made = voices(peak)
    written = write_voices(blocks(made), Target(tmp_path / "new" / name, NAMES, 22_050, layout, subtype))
    expected = {"channels": [name], "files": [f"a-speaker_1{name[1:]}", f"a-speaker_2{name[1:]}"]}[layout]
    assert [path.name for path in written.paths] == expected == sorted(path.name for path in (tmp_path / "new").iterdir())
    assert (written.sample_rate, written.seconds) == (22_050, 5000 / 22_050)
    for path in written.paths:
        about = soundfile.info(path)
        assert (about.samplerate, about.subtype, about.format) == (22_050, kind, name[2:].upper())
    assert written.scale == (1.0 if step == 0 or peak < 1 else pytest.approx(1 / 1500, rel=1e-3))
    np.testing.assert_allclose(read(written), written.scale * made, rtol=1e-6, atol=1.01 * step)
    assert np.abs(read(written)).max() <= 1 or not step


@pytest.mark.parametrize("layout", ["channels", "files"])
def test_a_name_need_not_be_unicode(tmp_path, layout):
    made = voices()
    written = write_voices(blocks(made), Target(tmp_path / os.fsdecode(b"caf\xe9.wav"), NAMES, 8000, layout))
    assert all(path.name.startswith(os.fsdecode(b"caf\xe9")) for path in written.paths)
    heard = [soundfile.read(os.fsencode(path), dtype="float32", always_2d=True)[0] for path in written.paths]
    np.testing.assert_array_equal(np.concatenate(heard, axis=1).T, made)


def test_silence_and_nothing_at_all(tmp_path):
    for subtype in ("FLOAT", "PCM_16"):
        written = write_voices(iter([np.zeros((2, 10), np.float32)]), Target(tmp_path / "a.wav", NAMES, 8000, subtype=subtype))
        assert (written.scale, read(written).any()) == (1.0, False)
        assert write_voices(iter([]), Target(tmp_path / "b.wav", NAMES, 8000, subtype=subtype)).seconds == 0


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_16"])
def test_a_failure_leaves_what_was_there(tmp_path, subtype):
    target = Target(tmp_path / "a.wav", NAMES, 8000, subtype=subtype)
    write_voices(blocks(voices()), target)
    before = (tmp_path / "a.wav").read_bytes()

    def broken():
        yield voices()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_voices(broken(), target)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == before


def test_a_disk_that_refuses(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="the output cannot be written"):
        write_voices(blocks(voices()), Target(tmp_path / "file" / "a.wav", NAMES, 8000))


def test_over_four_gigabytes_the_header_is_a_longer_one(tmp_path, monkeypatch):
    assert Target(tmp_path / "a.wav", NAMES, 8000, frames=2**29).format == "RF64"
    assert Target(tmp_path / "a.wav", NAMES, 8000, "files", frames=2**29).format == "WAV"
    monkeypatch.setattr(writing, "LARGEST_WAV", 1000)
    made = voices()
    np.testing.assert_array_equal(read(write_voices(blocks(made), Target(tmp_path / "a.wav", NAMES, 8000, frames=5000))), made)


@pytest.mark.parametrize("samples", [0, 5, 5000])
@pytest.mark.parametrize("layout", ["channels", "files"])
@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_16", "PCM_24"])
def test_what_nobody_knows_the_length_of_may_become_longer_than_four_gigabytes(tmp_path, monkeypatch, samples, layout, subtype):
    """A file that stays short has the header of a WAV all the same."""
    made = voices(samples=5000)[:, :samples]
    target = Target(tmp_path / "a.wav", NAMES, 8000, layout, subtype, frames=None)
    for most, head in [(2**32 - 2**16, b"RIFF"), (110, b"RF64" if samples else b"RIFF")]:
        monkeypatch.setattr(writing, "LARGEST_WAV", most)
        written = write_voices(iter([made]), target)
        assert written.seconds == samples / 8000
        np.testing.assert_allclose(read(written), made, atol=0 if subtype == "FLOAT" else 2**-15)
        for path in written.paths:
            content = path.read_bytes()
            assert content[:4] == head
            assert head == b"RF64" or content[4:8] == struct.pack("<I", len(content) - 8)
            assert read_wav(io.BytesIO(content), len(content), "a").frames == samples


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"path": "a.mp3"}, "expected .wav or .flac, got .mp3"),
        ({"path": "a"}, "expected .wav or .flac"),
        ({"path": "a.flac", "subtype": "FLOAT"}, "expected PCM_24, PCM_16, got FLOAT"),
        ({"path": "a.wav", "layout": "zip"}, "expected channels or files, got zip"),
        ({"path": "a.flac", "sample_rate": 768_000}, "at most 655350 Hz"),
        ({"path": "a.flac", "names": list("abcdefghi")}, "9 channels"),
    ],
)
def test_what_cannot_be_written_is_refused_before(tmp_path, arguments, says):
    with pytest.raises(ConfigError) as caught:
        Target(tmp_path / arguments.pop("path"), **{"names": NAMES, "sample_rate": 8000, **arguments})
    assert says in str(caught.value)
