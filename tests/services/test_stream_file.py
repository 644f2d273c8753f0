from __future__ import annotations

import io
import re
import sys
import types

import numpy as np
import pytest
import soundfile

from models.errors import ConfigError, InputError
from services.stream_file import stream_file


class Delayed:
    """A live separator whose voices are the two halves of the mixture, three samples late."""

    sample_rate = 8000
    sources = ("a", "b")
    delay_seconds = 3 / 8000

    def __init__(self):
        self.rates, self.chunks, self.held = [], [], np.zeros((2, 0), np.float32)

    def stream(self, sample_rate):
        self.rates.append(sample_rate)
        return self

    def push(self, chunk):
        self.chunks.append(len(chunk))
        mono = np.asarray(chunk, np.float32).reshape(len(chunk), -1).mean(axis=1)
        self.held = np.concatenate([self.held, np.stack([mono, mono]) / 2], axis=1)
        ready, self.held = self.held[:, :-3], self.held[:, -3:]
        return ready

    def flush(self):
        return self.held


def noise(*shape):
    return (0.5 * np.random.default_rng(0).uniform(-1, 1, shape)).astype(np.float32)


def test_a_recording_in_chunks_of_20_ms(tmp_path):
    soundfile.write(tmp_path / "talk.flac", noise(10_001, 2), 16_000, subtype="PCM_24")
    separator = Delayed()
    said = stream_file(str(tmp_path / "talk.flac"), separator, str(tmp_path / "voices.wav"), None, 1)
    assert separator.rates == [16_000]
    assert separator.chunks == [320] * 31 + [81]
    got, rate = soundfile.read(tmp_path / "voices.wav")
    assert (got.shape, rate) == ((10_001, 2), 16_000)
    np.testing.assert_allclose(got.sum(axis=1), noise(10_001, 2).mean(axis=1), atol=1e-6)
    told = r"0\.63 s of sound in \d+\.\d\d s \(real-time factor \d+\.\d+\)\. Behind the microphone: "
    assert re.fullmatch(told + r"20 ms of a chunk, 0\.4 ms of the network, \d+\.\d ms of computing \(95 % of chunks\)", said)


@pytest.mark.parametrize(("rate", "channels", "expected"), [(None, 1, 8000), (44_100, 2, 44_100)])
def test_raw_samples_from_a_pipe_to_a_pipe(monkeypatch, rate, channels, expected):
    samples = (noise(4000, channels) * 2**15).astype("<i2")
    target = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(samples.tobytes() + b"\x01")))
    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(buffer=target))
    separator = Delayed()
    stream_file("-", separator, "-", rate, channels)
    assert separator.rates == [expected]
    assert set(separator.chunks[:-1]) == {expected // 50}
    got = np.frombuffer(target.getvalue(), "<f4").reshape(-1, 2)
    np.testing.assert_allclose(got.sum(axis=1), samples.astype(np.float64).mean(axis=1) / 2**15, atol=1e-6)


def test_a_raw_file(tmp_path):
    (tmp_path / "talk.pcm").write_bytes((noise(1000) * 2**15).astype("<i2").tobytes())
    separator = Delayed()
    stream_file(str(tmp_path / "talk.pcm"), separator, None, 8000, 1)
    assert sum(separator.chunks) == 1000
    assert not list(tmp_path.glob("*.wav"))


def test_nothing_at_all(tmp_path):
    (tmp_path / "empty.pcm").touch()
    assert stream_file(str(tmp_path / "empty.pcm"), Delayed(), None, 8000, 1).startswith("0.00 s of sound")


@pytest.mark.parametrize(("rate", "says"), [(None, "cannot be read"), (8000, "cannot be read: got No such file")])
def test_a_missing_file(tmp_path, rate, says):
    with pytest.raises(InputError, match=says):
        stream_file(str(tmp_path / "none.wav"), Delayed(), None, rate, 1)


def test_a_target_that_cannot_be(tmp_path):
    soundfile.write(tmp_path / "talk.wav", noise(100), 8000)
    with pytest.raises(ConfigError, match=r"\.wav or \.flac"):
        stream_file(str(tmp_path / "talk.wav"), Delayed(), "voices.mp3", None, 1)
