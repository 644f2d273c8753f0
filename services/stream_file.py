"""A recording or a microphone through a live stream, chunk by chunk as they would come, and how far behind the voices are."""

from __future__ import annotations

import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError, InputError
from models.separator.audio import Recording
from models.separator.writing import Target, write_voices

CHUNK_SECONDS = 0.02
SAMPLE = np.dtype("<i2")  # of raw input: 16 bits, little-endian


class Readable(Protocol):
    """What raw samples are read from."""

    def read(self, size: int, /) -> bytes:
        """Read."""


class LiveStream(Protocol):
    """What is needed of a stream."""

    @property
    def delay_seconds(self) -> float:
        """By how much voices are behind."""

    def push(self, chunk: NDArray[np.floating]) -> NDArray[np.float32]:
        """Samples in, final voices out."""

    def flush(self) -> NDArray[np.float32]:
        """The rest."""


class LiveSeparator(Protocol):
    """What is needed of a separator."""

    sample_rate: int
    sources: list[str]

    def stream(self, sample_rate: int) -> LiveStream:
        """A new stream."""


class Timed:
    """The voices of a stream, and how long each chunk took."""

    def __init__(self, stream: LiveStream, sample_rate: int) -> None:
        self.stream, self.sample_rate = stream, sample_rate
        self.took: list[float] = []
        self.samples = 0

    def run(self, chunks: Iterable[NDArray[np.floating]]) -> Iterator[NDArray[np.float32]]:
        """Voices (sources, m), as soon as they are final."""
        for chunk in chunks:
            before = time.perf_counter()
            voices = self.stream.push(chunk)
            self.took.append(time.perf_counter() - before)
            self.samples += len(chunk)
            yield voices
        yield self.stream.flush()

    def report(self) -> str:
        """How far behind, in words."""
        seconds, busy = self.samples / self.sample_rate, sum(self.took)
        slow = statistics.quantiles(self.took, n=20)[-1] if len(self.took) > 1 else busy
        factor = busy / max(seconds, 1e-9)
        return (
            f"{seconds:.2f} s of sound in {busy:.2f} s (real-time factor {factor:.3f}). Behind the microphone: "
            f"{1000 * CHUNK_SECONDS:.0f} ms of a chunk, {1000 * self.stream.delay_seconds:.1f} ms of the network, "
            f"{1000 * slow:.1f} ms of computing (95 % of chunks)"
        )


class Live:
    """Input that goes on until somebody presses Ctrl-C, which is its end and not the program's: what came before is kept."""

    def __init__(self, stream: Readable) -> None:
        self.stream = stream
        self.ended = self.reading = False

    def read(self, size: int, /) -> bytes:
        """Read; nothing after Ctrl-C."""
        if self.ended:
            return b""
        self.reading = True
        try:
            return self.stream.read(size)
        except KeyboardInterrupt:
            self.ended = True
            return b""
        finally:
            self.reading = False

    @contextmanager
    def until_interrupted(self) -> Iterator[Live]:
        """Take Ctrl-C; a second one ends the program as usual. Elsewhere than in the main thread nobody can take it."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        # A read that waits has to be broken off; a chunk that is being computed or written must not be.
        if self.reading or self.ended:
            raise KeyboardInterrupt
        self.ended = True


def stream_file(source: str, separator: LiveSeparator, out: str | None, rate: int | None, channels: int) -> str:
    """Take a recording apart as a live stream.

    Args:
        source: WAV, FLAC, OGG or MP3; or raw 16-bit little-endian samples where ``rate`` is given; - is raw samples on stdin,
            until it ends or Ctrl-C does.
        separator: a causal one.
        out: WAV or FLAC file for the voices, a channel for each; - writes them to stdout as they come, raw 32-bit floats,
            samples of the voices in turn, until nobody reads them; None keeps nothing.
        rate: of raw samples, in Hz; by default the network's.
        channels: of raw samples.

    Returns:
        How far behind the voices were, in words.

    Raises:
        InputError: the source cannot be read.
        ConfigError: the output cannot be written, or is the source.
        UnprocessableError: the separator is not causal.
    """
    if out not in (None, "-") and source != "-" and Path(out).resolve() == Path(source).resolve():
        raise ConfigError("the output would overwrite its input", where=source, got=out, fix="Choose another --out file.")
    with ExitStack() as stack:
        if source == "-" or rate is not None:
            rate = rate or separator.sample_rate
            frames = None
            chunks = _raw(_binary(source, stack), round(rate * CHUNK_SECONDS), channels)
        else:
            recording = stack.enter_context(Recording.open(Path(source)))
            rate, frames = recording.sample_rate, recording.frames
            chunks = recording.blocks(max(1, round(rate * CHUNK_SECONDS)))
        timed = Timed(separator.stream(rate), rate)
        _write(timed.run(chunks), out, separator.sources, rate, frames)
        return timed.report()


def _write(voices: Iterator[NDArray[np.float32]], out: str | None, names: list[str], rate: int, frames: int | None) -> None:
    if out is not None and out != "-":
        write_voices(voices, Target(Path(out), names, rate, frames=frames))
        return
    target = sys.stdout.buffer
    try:
        for block in voices:
            if out == "-":
                target.write(np.ascontiguousarray(block.T, "<f4").tobytes())
                target.flush()
    except BrokenPipeError:  # whoever read has enough, such as `head`
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, target.fileno())  # what is left in the buffer would be an error again when Python ends
        os.close(nowhere)


def _binary(source: str, stack: ExitStack) -> Readable:
    if source == "-":
        return stack.enter_context(Live(sys.stdin.buffer).until_interrupted())
    try:
        return stack.enter_context(Path(source).open("rb"))
    except OSError as problem:
        raise InputError("cannot be read", where=source, got=problem.strerror or problem) from problem


def _raw(stream: Readable, frames: int, channels: int) -> Iterator[NDArray[np.float32]]:
    """Chunks (frames, channels) of raw samples, ±1 being full scale; half a sample at the end is dropped."""
    frame = SAMPLE.itemsize * channels
    while whole := len(content := stream.read(max(1, frames) * frame)) // frame * frame:
        yield np.frombuffer(content[:whole], SAMPLE).reshape(-1, channels).astype(np.float32) / np.float32(2**15)
