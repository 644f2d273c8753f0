from __future__ import annotations

import io
import os
import re
import signal
import sys
import threading
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


def test_a_source_is_not_overwritten_however_it_is_called(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "talk.wav", noise(100), 8000)
    before = (tmp_path / "talk.wav").read_bytes()
    (tmp_path / "link.wav").symlink_to("talk.wav")
    monkeypatch.chdir(tmp_path)
    for source, out in [("talk.wav", "talk.wav"), ("talk.wav", f"../{tmp_path.name}/talk.wav"), ("link.wav", "talk.wav")]:
        for rate in (None, 8000):
            with pytest.raises(ConfigError, match="the output would overwrite its input"):
                stream_file(source, Delayed(), out, rate, 1)
    assert (tmp_path / "talk.wav").read_bytes() == before


class Microphone:
    """0.1 s of sound, then silence and a wait that only Ctrl-C ends."""

    def __init__(self):
        self.left = io.BytesIO((noise(800) * 2**15).astype("<i2").tobytes())

    def read(self, size):
        if not (content := self.left.read(size)):
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            threading.Event().wait(10)
        return content


class Interrupted(Delayed):
    """Ctrl-C comes while a chunk is computed."""

    def __init__(self, times=1):
        super().__init__()
        self.times = times

    def push(self, chunk):
        if len(self.chunks) == 2:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return super().push(chunk)


@pytest.fixture
def ctrl_c():
    """Python's handler, also where the tests run in the background and the shell has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("separator", "samples"), [(Delayed(), 800), (Interrupted(), 480)])
def test_ctrl_c_ends_live_input_and_keeps_it(tmp_path, monkeypatch, separator, samples):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=Microphone()))
    before = signal.getsignal(signal.SIGINT)
    said = stream_file("-", separator, str(tmp_path / "voices.wav"), None, 1)
    assert said.startswith(f"{samples / 8000:.2f} s of sound")
    assert [path.name for path in tmp_path.iterdir()] == ["voices.wav"]
    assert soundfile.info(tmp_path / "voices.wav").frames == samples
    assert (tmp_path / "voices.wav").read_bytes()[:4] == b"RIFF"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_twice_or_over_a_file_stops_the_program(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=Microphone()))
    soundfile.write(tmp_path / "talk.wav", noise(800), 8000)
    for source, separator in [("-", Interrupted(2)), (str(tmp_path / "talk.wav"), Interrupted())]:
        with pytest.raises(KeyboardInterrupt):
            stream_file(source, separator, str(tmp_path / "voices.wav"), None, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["talk.wav"]


def test_a_reader_that_has_enough_ends_the_stream(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    samples = (noise(4000) * 2**15).astype("<i2")
    with os.fdopen(writer, "wb") as target:  # which writes what is left when it closes, as Python does with stdout
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(samples.tobytes())))
        monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(buffer=target))
        assert "s of sound" in stream_file("-", Delayed(), "-", None, 1)
