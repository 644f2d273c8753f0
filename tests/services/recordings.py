"""Recordings for tests, good and bad, as bytes."""

from __future__ import annotations

import io
import struct

import numpy as np
import soundfile


def samples(seconds: float = 1.0, rate: int = 8000, channels: int = 1) -> np.ndarray:
    """Noise, the same at every call."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (int(seconds * rate), channels))
    return noise.astype(np.float32)


def recording(
    kind: str = "WAV", seconds: float = 1.0, rate: int = 8000, channels: int = 1, level: float = 1.0, subtype: str | None = None
) -> bytes:
    """A file of any kind that libsndfile writes; of level 0, FLAC is small however long it is."""
    file = io.BytesIO()
    soundfile.write(file, level * samples(seconds, rate, channels), rate, format=kind, subtype=subtype)
    return file.getvalue()


def wav_header(rate: int = 8000, channels: int = 1, promised: int = 16_000, bits: int = 16, kind: int = 1) -> bytes:
    """The 44 bytes before the samples, saying whatever we want them to."""
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels, rate, (rate * frame) % 2**32, frame % 2**16, bits)
    head = b"RIFF" + struct.pack("<I", min(promised + 36, 2**32 - 1)) + b"WAVEfmt " + struct.pack("<I", 16)
    return head + form + b"data" + struct.pack("<I", promised)


def not_a_number() -> bytes:
    """A float WAV with a NaN among its samples."""
    values = samples()[:, 0]
    values[1234] = np.nan
    return wav_header(promised=values.nbytes, bits=32, kind=3) + values.astype("<f4").tobytes()


def read(content: bytes) -> tuple[np.ndarray, int]:
    """Samples (samples, channels) and rate."""
    values, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    return values, rate


def form(*parts: bytes, boundary: bytes = b"x", end: bytes = b"--x--\r\n") -> bytes:
    """A multipart body of parts written by hand."""
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + end


def file_part(content: bytes, name: str = "audio", filename: str = "talk.wav") -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\nContent-Type: audio/wav\r\n\r\n'
    return head.encode() + content


def text_part(name: str, value: bytes) -> bytes:
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value
