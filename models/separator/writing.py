"""Voices, written as they come: one file with a channel for each, or a file for each.

Voices may exceed ±1 where the mixture does not, and integers would clip there. So WAV is float by default. Integers
(FLAC, PCM) are made in two passes: the voices go to a temporary file first, then all of them are divided by the same number if
one of them is over full scale, and that number is reported; they still add up to the mixture, divided by it.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from models.errors import ConfigError, OutputError
from models.separator.levels import Samples

Layout = Literal["channels", "files"]
Subtype = Literal["FLOAT", "PCM_16", "PCM_24"]

SUBTYPES: dict[str, tuple[Subtype, ...]] = {".wav": ("FLOAT", "PCM_16", "PCM_24"), ".flac": ("PCM_24", "PCM_16")}
"""What each suffix can hold; the first is the default."""

LARGEST_WAV = 2**32 - 2**16  # bytes of samples; more is written as RF64, which has a longer header
HIGHEST_FLAC_RATE, MOST_FLAC_CHANNELS = 655_350, 8
RF64_HEADER = 104  # bytes, as libsndfile writes it
BLOCK = 2**16
QUIETEST_BIT = {"PCM_16": 2.0**-15, "PCM_24": 2.0**-23}


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        paths: the files, in the order of the voices.
        seconds: how long they are.
        sample_rate: in Hz.
        scale: what all voices were multiplied with, so that integers do not clip; 1 where nothing was done.
    """

    paths: list[Path]
    seconds: float
    sample_rate: int
    scale: float


@dataclass(frozen=True)
class Target:
    """Where voices go, and how.

    Attributes:
        path: a .wav or .flac file; with the layout ``files``, voice ``speaker_1`` of ``talk.wav`` goes to
            ``talk-speaker_1.wav``.
        names: of the voices.
        sample_rate: in Hz.
        layout: one file with a channel for each voice, or a file for each.
        subtype: of the samples; None is float for WAV and 24 bits for FLAC.
        frames: samples to expect: more than four gigabytes need another header. None where nobody knows, as of live input;
            the header is then one that can hold any number, and becomes that of a plain WAV where it was not needed.
    """

    path: Path
    names: Sequence[str]
    sample_rate: int
    layout: Layout = "channels"
    subtype: Subtype | None = None
    frames: int | None = 0

    def __post_init__(self) -> None:
        suffix, allowed = self.path.suffix.lower(), SUBTYPES.get(self.path.suffix.lower(), ())
        if not allowed:
            raise ConfigError(
                "not a format that voices are written in", where=str(self.path), expected=".wav or .flac", got=suffix
            )
        if self.layout not in ("channels", "files"):
            raise ConfigError("unknown layout", where="layout", expected="channels or files", got=self.layout)
        if self.subtype is not None and self.subtype not in allowed:
            raise ConfigError(
                f"a {suffix} file does not hold that", where="subtype", expected=", ".join(allowed), got=self.subtype
            )
        if suffix == ".flac" and (self.sample_rate > HIGHEST_FLAC_RATE or self.channels > MOST_FLAC_CHANNELS):
            expected = f"at most {HIGHEST_FLAC_RATE} Hz and {MOST_FLAC_CHANNELS} channels"
            got = f"{self.sample_rate} Hz, {self.channels} channels"
            raise ConfigError("FLAC does not hold that", where=str(self.path), expected=expected, got=got, fix="Write WAV.")

    @property
    def channels(self) -> int:
        """Of one file."""
        return len(self.names) if self.layout == "channels" else 1

    @property
    def paths(self) -> list[Path]:
        """The files to be."""
        if self.layout == "channels":
            return [self.path]
        return [self.path.with_name(f"{self.path.stem}-{name}{self.path.suffix}") for name in self.names]

    @property
    def kind(self) -> Subtype:
        """Of the samples."""
        return self.subtype or SUBTYPES[self.path.suffix.lower()][0]

    @property
    def format(self) -> str:
        """As libsndfile calls it."""
        if self.path.suffix.lower() == ".flac":
            return "FLAC"
        return "RF64" if self.frames is None or self.frames * self.channels * 4 > LARGEST_WAV else "WAV"


def write_voices(blocks: Iterable[Samples], target: Target) -> Written:
    """Write voices (C, n), block by block. The files appear under their names when they are complete, or not at all.

    Raises:
        OutputError: the disk refuses.
    """
    try:
        target.path.parent.mkdir(parents=True, exist_ok=True)
        if target.kind == "FLOAT":
            count, scale = _write(blocks, target), 1.0
        else:
            with _kept(blocks, target) as (again, scale):
                count = _write(again, target)
    except (OSError, soundfile.SoundFileRuntimeError) as problem:
        raise OutputError("the output cannot be written", where=str(target.path), got=problem) from problem
    return Written(target.paths, count / target.sample_rate, target.sample_rate, scale)


def _write(blocks: Iterable[Samples], target: Target) -> int:
    """Write and rename; returns the number of samples."""
    partial = [_beside(path) for path in target.paths]
    count = 0
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(_sound_file(path, target)) for path in partial]
            for block in blocks:
                count += block.shape[1]
                for file, voices in zip(files, [block] if target.layout == "channels" else block[:, None], strict=True):
                    file.write(voices.T)
        for made, path in zip(partial, target.paths, strict=True):
            _forget_time(made)
            if target.format == "RF64" and target.frames is None:
                _shorten_header(made)
            made.replace(path)
    finally:
        for path in partial:
            path.unlink(missing_ok=True)
    return count


def _sound_file(path: Path, target: Target) -> soundfile.SoundFile:
    return soundfile.SoundFile(os.fsencode(path), "w", target.sample_rate, target.channels, target.kind, format=target.format)


def _forget_time(path: Path) -> None:
    """Of float WAVs libsndfile notes when they were written (chunk PEAK); without that, the same voices are the same bytes."""
    with path.open("r+b") as file:
        place = file.read(RF64_HEADER + 64).find(b"PEAK")
        if place >= 0:
            file.seek(place + 12)  # its name, size and version come before
            file.write(bytes(4))


def _shorten_header(path: Path) -> None:
    """Make an RF64 header that was not needed that of a WAV, which more programs read."""
    if path.stat().st_size > LARGEST_WAV:
        return
    with path.open("r+b") as file:
        head = file.read(RF64_HEADER)
        if head[:4] + head[12:16] + head[-8:] != b"RF64ds64data" + b"\xff" * 4:
            return  # another libsndfile may lay it out otherwise; it is right as it is
        file.seek(0)
        whole, samples = struct.unpack_from("<QQ", head, 20)
        file.write(b"RIFF" + struct.pack("<I", whole) + b"WAVEJUNK" + head[16:-4] + struct.pack("<I", samples))


@contextmanager
def _kept(blocks: Iterable[Samples], target: Target) -> Iterator[tuple[Iterator[Samples], float]]:
    """The same blocks once more, scaled so that the loudest sample fits, and by how much."""
    sources, peak, path = len(target.names), 0.0, _beside(target.path)
    try:
        with path.open("w+b") as file:
            for block in blocks:
                peak = max(peak, float(np.abs(block).max(initial=0.0)))
                file.write(np.ascontiguousarray(block.T).tobytes())
            file.seek(0)
            room = 1.0 - QUIETEST_BIT[target.kind]
            scale = min(1.0, room / peak) if peak else 1.0
            size = BLOCK * sources * 4
            frames = (np.frombuffer(chunk, np.float32).reshape(-1, sources) for chunk in iter(lambda: file.read(size), b""))
            yield (frame.T * np.float32(scale) for frame in frames), scale
    finally:
        path.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
