"""Recordings of single speakers, and mixtures made of them on the fly.

A folder of speakers holds one folder for each, with audio files at any depth. What an item of an epoch is depends on
(seed, epoch, index) alone, so neither the number of workers nor of processes changes it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.transforms import Speed

from models.errors import ConfigError, DataFormatError, OutputError
from training.remote import local, shown

SUFFIXES = (".flac", ".wav", ".ogg", ".mp3")
FAINT = 1e-4  # RMS below which a segment counts as silence and another is drawn
TRIES = 10

Floats = NDArray[np.float32]
Integers = NDArray[np.int16]


@dataclass(frozen=True)
class Recording:
    """One file: its samples and rate as its header tells."""

    path: Path
    samples: int
    rate: int


class Recordings:
    """Audio files by speaker (or by kind of noise).

    Args:
        folder: one folder a speaker; or its fsspec address.
        rate: Hz; files of another rate are resampled.
        keep: hold decoded files in memory, 16 bits a sample; without, each segment is read from disk.
        cache: folder for decoded files, 16 bits a sample, which all processes share and map, in place of ``keep``.

    Raises:
        ConfigError: no such folder, or fewer than ``least`` speakers in it.
        DataFormatError: a file is no audio.
    """

    def __init__(self, folder: str, rate: int, keep: bool = True, least: int = 1, cache: str | None = None) -> None:
        self.root = root = local(folder)
        found = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
        grouped: dict[str, list[Recording]] = {}
        for path in found:
            if path.parent != root:
                grouped.setdefault(path.relative_to(root).parts[0], []).append(header(path))
        if len(grouped) < least:
            raise ConfigError(
                "too few speakers",
                where=shown(folder),
                expected=f"at least {least} folders with {', '.join(SUFFIXES)} files",
                got=len(grouped),
                fix="Put each speaker's files into a folder of their own.",
            )
        self.rate, self.keep, self.cache = rate, keep, Path(cache) if cache else None
        self.speakers = list(grouped)
        self.recordings = list(grouped.values())
        self._kept: dict[Path, Integers] = {}

    def read(self, recording: Recording, start: float, seconds: float) -> Floats:
        """Samples at our rate from ``start`` seconds on; fewer where the file ends.

        Raises:
            DataFormatError: the file cannot be read.
            OutputError: the folder for decoded files cannot be written.
        """
        if self.cache is not None or self.keep:
            whole = self._kept_in_memory(recording) if self.cache is None else self._kept_on_disk(recording, self.cache)
            first = int(start * self.rate)
            kept = whole[first : first + round(seconds * self.rate)]
            return kept.astype(np.float32) / np.float32(32767)
        first, count = int(start * recording.rate), round(seconds * recording.rate)
        return _resampled(_decode(recording, first, count), recording.rate, self.rate)

    def _whole(self, recording: Recording) -> Integers:
        whole = _resampled(_decode(recording, 0, recording.samples), recording.rate, self.rate)
        return np.round(np.clip(whole, -1, 1) * 32767).astype(np.int16)

    def _kept_in_memory(self, recording: Recording) -> Integers:
        if recording.path not in self._kept:
            self._kept[recording.path] = self._whole(recording)
        return self._kept[recording.path]

    def _kept_on_disk(self, recording: Recording, cache: Path) -> Integers:
        """Mapped for as long as it is looked at: more files may be there than a process may map."""
        status = recording.path.stat()
        about = f"{recording.path.resolve()} {status.st_size} {status.st_mtime_ns} {self.rate}"
        name = hashlib.sha256(about.encode()).hexdigest()[:32]
        file = cache / name[:2] / f"{name}.npy"  # few folders of many files
        if (mapped := _mapped(file)) is None:
            _write(file, self._whole(recording))
            mapped = _mapped(file)
        if mapped is None:
            raise OutputError("decoded speech cannot be read back", where=str(file), fix="Name another folder as `cache`.")
        return mapped


def _mapped(file: Path) -> Integers | None:
    """The samples of a decoded file; None where there is none, or a damaged one."""
    try:
        mapped: Integers = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # not there, empty, or short
        return None
    return mapped if mapped.dtype == np.int16 and mapped.ndim == 1 else None


def _write(file: Path, samples: Integers) -> None:
    """A decoded file, whole or not there. Another process may have been first: with the same samples."""
    partial = file.with_name(f".{secrets.token_hex(6)}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as stream:
            np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(samples))
            stream.write(samples.tobytes())  # numpy's own writing does not say that the disk is full
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError as problem:
        fix = "Make room, or name another folder as `cache`; without one, files are decoded again or kept in memory (`keep`)."
        raise OutputError("decoded speech cannot be kept", where=str(file.parent), got=problem, fix=fix) from problem
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def header(path: Path) -> Recording:
    """What a file's header tells.

    Raises:
        DataFormatError: it is no audio, or empty.
    """
    try:
        info = soundfile.info(str(path))
    except soundfile.LibsndfileError as error:
        raise DataFormatError("no audio", where=str(path), expected=", ".join(SUFFIXES), got=error) from error
    if not info.frames:
        raise DataFormatError("nothing is in it", where=str(path), fix="Remove it from the folder.")
    return Recording(path, info.frames, info.samplerate)


def _decode(recording: Recording, start: int, count: int) -> Floats:
    """Mean of the channels."""
    try:
        samples, _ = soundfile.read(str(recording.path), count, start, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DataFormatError("cannot be read", where=str(recording.path), got=error) from error
    mono: Floats = samples.mean(axis=1, dtype=np.float32)
    return mono


def _resampled(samples: Floats, rate: int, target: int) -> Floats:
    if rate == target or not len(samples):
        return samples
    result: Floats = soxr.resample(samples, rate, target)
    return result


@dataclass
class Mixing:
    """How mixtures are drawn.

    Attributes:
        speakers: C, in a mixture, never one twice.
        level: largest difference from the first voice's level, dB, drawn evenly on both sides.
        gain: lowest and highest level of the mixture's first voice, dB of full scale (RMS).
        speeds: factors of which one is drawn for each voice; torchaudio resamples, so pitch moves with them.
        noise: folder of noises, one folder a kind; None for none.
        noise_level: lowest and highest level of the noise against the voices, dB.
    """

    speakers: int = 2
    level: float = 5.0
    gain: tuple[float, float] = (-33.0, -20.0)
    speeds: Sequence[float] = (0.9, 0.95, 1.0, 1.05, 1.1)
    noise: str | None = None
    noise_level: tuple[float, float] = (-20.0, -5.0)


class DynamicMixtures:
    """Mixtures of random segments of random speakers: ``draw(epoch, index, seconds)`` → (mixture (T), voices (C, T))."""

    def __init__(self, speech: Recordings, noise: Recordings | None, settings: Mixing, seed: int) -> None:
        self.speech, self.noise, self.settings, self.seed = speech, noise, settings, seed
        self._speeds = {speed: Speed(speech.rate, speed) for speed in settings.speeds if speed != 1.0}

    def draw(self, epoch: int, index: int, seconds: float) -> tuple[Tensor, Tensor]:
        """The mixture of this place in this epoch."""
        random = np.random.default_rng((self.seed, epoch, index))
        s = self.settings
        chosen = random.choice(len(self.speech.speakers), s.speakers, replace=False)
        voices = torch.stack([self._voice(random, self.speech.recordings[number], seconds) for number in chosen])
        levels = random.uniform(*s.gain) + np.concatenate([[0.0], random.uniform(-s.level, s.level, s.speakers - 1)])
        voices = _at_level(voices, torch.from_numpy(levels.astype(np.float32)))
        mixture = voices.sum(0)
        if self.noise is not None:
            kind = self.noise.recordings[random.integers(len(self.noise.speakers))]
            level = levels[0] + random.uniform(*s.noise_level)
            mixture = mixture + _at_level(self._voice(random, kind, seconds)[None], torch.tensor([level], dtype=torch.float32))[0]
        return mixture, voices

    def _voice(self, random: np.random.Generator, recordings: Sequence[Recording], seconds: float) -> Tensor:
        """A random segment; of a shorter recording all of it, at a random place."""
        length = round(seconds * self.speech.rate)
        speed = float(random.choice(np.asarray(self.settings.speeds)))
        voice = torch.zeros(length)
        for _ in range(TRIES):
            recording = recordings[int(random.integers(len(recordings)))]
            total = recording.samples / recording.rate
            samples = torch.from_numpy(
                self.speech.read(recording, random.uniform(0, max(0.0, total - seconds * speed)), seconds * speed)
            )
            if speed in self._speeds and len(samples):
                samples = self._speeds[speed](samples)[0]
            samples = samples[:length]
            place = int(random.integers(0, length - len(samples) + 1))
            voice = torch.zeros(length)
            voice[place : place + len(samples)] = samples
            if float(voice.square().mean()) > FAINT**2:
                break
        return voice


def _at_level(voices: Tensor, levels: Tensor) -> Tensor:
    """Voices (C, T) at RMS ``levels`` (C) in dB of full scale; silence stays silence."""
    rms = voices.square().mean(1).sqrt()
    return voices * (10 ** (levels / 20) / rms.clamp(min=1e-6)).unsqueeze(1)
