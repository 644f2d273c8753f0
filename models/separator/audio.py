"""Recordings, read as a stream of blocks: WAV, FLAC, OGG (Vorbis, Opus) and MP3, by what the bytes say and nothing else.

Everything that a header can lie about is compared with the file before anything is decoded or allocated (``containers``),
and what only decoding shows, a recording that breaks off or samples that are no numbers, is an error where it happens.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from models.errors import (
    AudioBytesError,
    AudioChannelsError,
    AudioEmptyError,
    AudioError,
    AudioKindError,
    AudioRateError,
    AudioSecondsError,
    AudioTruncatedError,
)
from models.separator.containers import Promise, check_ogg, container, mp3_frames, read_wav
from models.separator.levels import Samples, mono

LOWEST_RATE, HIGHEST_RATE = 100, 768_000  # Hz
MOST_CHANNELS = 32
BLOCK = 2**16  # samples of a block, of each channel
MP3_PADDING = 4 * 1152  # samples that the frames of an MP3 hold besides the recording's, where it does not say how many
UNKNOWN_FRAMES = 2**63 - 1  # what libsndfile says of a FLAC that does not say how long it is
FORMATS = "WAV, FLAC, OGG (Vorbis or Opus) or MP3"


@dataclass(frozen=True)
class Limits:
    """What is accepted; None is no limit.

    Attributes:
        channels: at most.
        seconds: at most, by the header and while decoding.
        bytes: of the file, at most.
    """

    channels: int = MOST_CHANNELS
    seconds: float | None = None
    bytes: int | None = None


class Recording:
    """A recording that is open for reading.

    Attributes:
        name: what messages call it.
        sample_rate: in Hz, 100 to 768,000.
        channels: number of them.
        frames: samples of each channel, as the header has it; counted where it does not say.
    """

    def __init__(self, file: soundfile.SoundFile, stream: _Stream, frames: int | None, name: str, limits: Limits) -> None:
        self._file, self._stream = file, stream
        self._padding = MP3_PADDING if frames is not None and file.format == "MP3" else 0
        self.name, self.limits = name, limits
        self.sample_rate, self.channels = file.samplerate, file.channels
        self.frames = file.frames if frames is None else frames
        _check_promise(Promise(self.channels, self.sample_rate, self.frames), name, limits)
        if self.frames > file.frames + MP3_PADDING:
            raise AudioError(
                "an MP3 of variable bit rate that does not say how long it is",
                where=name,
                expected=f"a Xing header with its length of {self.seconds:.1f} s",
                got=f"none, and a length guessed at {file.frames / self.sample_rate:.1f} s",
                fix="Convert it first (`ffmpeg -i in.mp3 out.wav`).",
            )

    @classmethod
    @contextmanager
    def open(cls, source: str | os.PathLike[str] | BinaryIO, name: str = "", limits: Limits | None = None) -> Iterator[Self]:
        """Open a path, or a binary file object (one that cannot seek is copied to a temporary file first).

        Args:
            source: where the bytes are. A type or suffix that it claims is not looked at.
            name: what messages call it; by default its path.
            limits: what is accepted.

        Raises:
            AudioKindError: not a kind of sound that is read here (415).
            AudioError: damaged; AudioEmptyError: no sample in it; AudioTruncatedError: the header promises more (400).
            AudioBytesError, AudioSecondsError: over the limits (413).
            AudioChannelsError, AudioRateError: over the limits, or out of range (422).
        """
        limits = limits or Limits()
        with _opened(source, limits) as (raw, path):
            name = name or path
            stream = _Stream(raw)
            frames = _check(stream, name, limits)
            with _decoder(stream, name) as file:
                yield cls(file, stream, frames, name, limits)

    @property
    def seconds(self) -> float:
        """How long it is, as the header has it."""
        return float(self.frames / self.sample_rate)

    def blocks(self, size: int = BLOCK) -> Iterator[NDArray[np.float32]]:
        """The samples, from where reading stands, ±1 being full scale: (n, channels) for n up to ``size``.

        Raises:
            AudioTruncatedError: the recording breaks off.
            AudioError: it cannot be decoded.
        """
        done = self._file.tell()
        while len(block := self._read(size, done)):
            done += len(block)
            if self.limits.seconds is not None and done > self.limits.seconds * self.sample_rate:
                raise _too_long(done / self.sample_rate, self.name, self.limits.seconds)
            yield block
        if self.frames - done > self._padding:
            raise self._broken(done)

    def mono_blocks(self, size: int = BLOCK) -> Iterator[Samples]:
        """The mean of the channels: (n,) for n up to ``size``. AudioSamplesError says which sample is not a number."""
        first = 0
        for block in self.blocks(size):
            yield mono(block, first, self.name)
            first += len(block)

    def _read(self, size: int, done: int) -> NDArray[np.float32]:
        try:
            block: NDArray[np.float32] = self._file.read(size, dtype="float32", always_2d=True)
        except soundfile.SoundFileRuntimeError as error:
            raise self._broken(done, _said(error)) from error
        if self._stream.problem is not None:
            raise AudioError("cannot be read", where=self.name, got=self._stream.problem) from self._stream.problem
        return block

    def _broken(self, done: int, said: str = "") -> AudioError:
        return AudioTruncatedError(
            "the recording is damaged or breaks off",
            where=self.name,
            expected=f"{self.frames} samples ({self.seconds:.1f} s), as its header says",
            got=_found(self._file, done, said),
            fix="Send the whole file.",
        )


class _Stream:
    """What libsndfile reads through: it sees no name to guess from, and its callbacks must not raise."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw = raw
        self.problem: OSError | None = None
        self.size = raw.seek(0, os.SEEK_END)
        raw.seek(0)

    def read(self, size: int = -1) -> bytes:
        try:
            return self.raw.read(size)
        except OSError as problem:
            self.problem = problem
            return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.raw.seek(offset, whence)

    def tell(self) -> int:
        return self.raw.tell()


@contextmanager
def _opened(source: str | os.PathLike[str] | BinaryIO, limits: Limits) -> Iterator[tuple[BinaryIO, str]]:
    """A stream that can seek, and what to call it."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        try:
            raw = path.open("rb")
        except OSError as problem:
            raise AudioError("cannot be read", where=str(path), got=problem.strerror or problem) from problem
        with raw:
            yield raw, str(path)
    elif source.seekable():
        yield source, "the recording"
    else:
        with tempfile.TemporaryFile() as copy:
            size = 0
            while chunk := source.read(2**20):
                size += len(chunk)
                _check_bytes(size, "the recording", limits)
                copy.write(chunk)
            yield copy, "the recording"


@contextmanager
def _decoder(stream: _Stream, name: str) -> Iterator[soundfile.SoundFile]:
    stream.seek(0)
    try:
        file = soundfile.SoundFile(stream)
    except soundfile.SoundFileRuntimeError as error:
        raise AudioError("not sound that can be decoded", where=name, expected=FORMATS, got=_said(error)) from error
    # soundfile seeks after every read of what can seek, which fails at the end where no length is known.
    file.seekable = lambda: False
    with file:
        yield file


def _said(error: soundfile.SoundFileRuntimeError) -> str:
    """libsndfile's words, without the object's address that soundfile puts before them."""
    said = str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".")
    return "nothing that can be decoded" if "does not exist" in said else said  # what it says of an MP3 without a frame


def _check(stream: _Stream, name: str, limits: Limits) -> int | None:
    """Refuse what the container itself shows to be wrong, before libsndfile sees any of it; the length that libsndfile would
    have to guess.
    """
    _check_bytes(stream.size, name, limits)
    if not stream.size:
        raise AudioEmptyError("the file is empty", where=name, expected=f"{FORMATS} with at least one sample", got="0 bytes")
    head = stream.read(16)
    kind = container(head)
    if kind is None:
        fix = "Send a recording in one of these formats; what the file is called does not matter."
        raise AudioKindError("not a recording", where=name, expected=FORMATS, got=f"bytes that begin with {head!r}", fix=fix)
    if kind == "wav":
        _check_promise(read_wav(stream, stream.size, name), name, limits)
    if kind == "ogg":
        check_ogg(stream, stream.size, name)
    if kind == "mp3":
        return mp3_frames(stream, stream.size, name)
    return _counted(stream, name, limits) if kind != "wav" else None


def _counted(stream: _Stream, name: str, limits: Limits) -> int | None:
    """Samples of a FLAC that does not say how many there are, as encoders leave it that write to a pipe, by decoding all of it;
    None where it says so.
    """
    with _decoder(stream, name) as file:
        if file.frames != UNKNOWN_FRAMES:
            return None
        _check_promise(Promise(file.channels, file.samplerate, UNKNOWN_FRAMES), name, replace(limits, seconds=None))
        frames = 0
        try:
            while count := len(file.read(BLOCK, dtype="float32", always_2d=True)):
                frames += count
                if limits.seconds is not None and frames > limits.seconds * file.samplerate:
                    raise _too_long(frames / file.samplerate, name, limits.seconds, "at least ")
        except soundfile.SoundFileRuntimeError as error:
            raise AudioTruncatedError(
                "the recording is damaged or breaks off",
                where=name,
                expected="a FLAC that can be decoded to its end; it does not say how long it is",
                got=_found(file, frames, _said(error)),
                fix="Send the whole file; if this is all there is, write it again (`ffmpeg -i in.flac out.flac`).",
            ) from error
        if stream.problem is not None:
            raise AudioError("cannot be read", where=name, got=stream.problem) from stream.problem
        return frames


def _found(file: soundfile.SoundFile, done: int, said: str) -> str:
    """How much of a recording there was. A block in which the decoder fails is lost, and only the decoder knows its length."""
    frames = max(done, file.tell())
    least = "at least " if said else ""
    return f"{least}{frames} samples ({frames / file.samplerate:.1f} s)" + (f", then: {said}" if said else "")


def _check_bytes(size: int, name: str, limits: Limits) -> None:
    if limits.bytes is not None and size > limits.bytes:
        fix = "Send a compressed recording (FLAC, OGG, MP3), or cut it."
        raise AudioBytesError("too large", where=name, expected=f"at most {limits.bytes} bytes", got=f"{size} bytes", fix=fix)


def _check_promise(promise: Promise, name: str, limits: Limits) -> None:
    if not LOWEST_RATE <= promise.sample_rate <= HIGHEST_RATE:
        expected, got = f"{LOWEST_RATE} to {HIGHEST_RATE} Hz", f"{promise.sample_rate} Hz"
        raise AudioRateError("sample rate out of range", where=name, expected=expected, got=got, fix="Resample it.")
    if promise.channels > limits.channels:
        fix = "Mix it down (`ffmpeg -i in -ac 1 out.wav`)."
        raise AudioChannelsError(
            "too many channels", where=name, expected=f"at most {limits.channels}", got=promise.channels, fix=fix
        )
    if not promise.frames:
        raise AudioEmptyError("there is no sound in it", where=name, expected="at least one sample", got="none")
    seconds = promise.frames / promise.sample_rate
    if limits.seconds is not None and seconds > limits.seconds:
        raise _too_long(seconds, name, limits.seconds)


def _too_long(seconds: float, name: str, limit: float, least: str = "") -> AudioSecondsError:
    fix = "Cut it, or use `convoy separate`, which takes any length."
    return AudioSecondsError("too long", where=name, expected=f"at most {limit:g} s", got=f"{least}{seconds:.1f} s", fix=fix)
