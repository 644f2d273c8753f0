"""Fixed mixtures, to validate and evaluate on or to train with: lists of files in CSV, or folders of them.

Two kinds of CSV list, told apart by their header:

- ``source_1,source_2,…,level``: voices to be mixed; the first is ``level`` dB louder (RMS) than each of the others. Whole
  files; shorter ones are followed by silence.
- ``mixture_path,source_1_path,source_2_path,…`` as LibriMix writes it, with or without other columns: mixed already.

And folders as WSJ0-2mix and LibriMix have them: ``mix`` (or ``mix_clean``, ``mix_both``) and ``s1``, ``s2`` … in one folder, with
files of the same names.

A column ``group``, if there is one, says which figures belong together. Paths are relative to the folder given beside the
list.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from models.errors import ConfigError, DataFormatError
from training.remote import local, parent, shown
from training.separator.speech import SUFFIXES, Floats, Recordings, header

MIXED = ("mix_clean", "mix", "mix_both")  # LibriMix without noise, WSJ0-2mix, LibriMix with noise


@dataclass(frozen=True)
class FixedMixture:
    """One line of a list.

    Attributes:
        sources: files of the voices.
        mixture: file of the mixture; None where the voices are to be added up.
        level: dB of the first voice above the others; None where they are to be added as they are.
        where: file and line, for messages.
        group: of mixtures that are reported together; empty where the list has none.
    """

    sources: tuple[Path, ...]
    mixture: Path | None
    level: float | None
    where: str
    group: str = ""

    def load(self, rate: int) -> tuple[Tensor, Tensor]:
        """(mixture (T), voices (C, T)) at ``rate`` Hz."""
        mixture = None if self.mixture is None else _load(self.mixture, rate, self.where)
        return self._joined([_load(path, rate, self.where) for path in self.sources], mixture)

    def segment(self, rate: int, length: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(mixture (length), voices (C, length)) from a random place on; silence follows where the files end.

        Of files at ``rate`` only the segment is decoded, unless a level is asked for, which is that of whole voices.
        """
        headers = [header(path) for path in (*self.sources, *([self.mixture] if self.mixture else []))]
        if self.level is None and all(each.rate == rate for each in headers):
            longest = max(each.samples for each in headers[: len(self.sources)])
            if self.mixture is not None:
                self._check(headers[-1].samples, longest)
            start = _place(random, longest, length)
            parts = [_load(each.path, rate, self.where, min(start, each.samples), length) for each in headers]
            parts = [np.pad(part, (0, length - len(part))) for part in parts]
            return self._joined(parts[: len(self.sources)], parts[-1] if self.mixture else None)
        mixture, voices = self.load(rate)
        start = _place(random, len(mixture), length)
        whole = torch.cat([mixture[None], voices])[:, start : start + length]
        whole = torch.nn.functional.pad(whole, (0, length - whole.shape[1]))
        return whole[0], whole[1:]

    def _joined(self, loaded: Sequence[Floats], mixture: Floats | None) -> tuple[Tensor, Tensor]:
        longest = max(map(len, loaded))
        voices = np.stack([np.pad(voice, (0, longest - len(voice))) for voice in loaded])
        if self.level is not None:
            rms = np.array([np.sqrt(np.mean(np.square(voice, dtype=np.float64))) for voice in loaded])
            if not (rms > 0).all():
                raise DataFormatError("a voice is silent and has no level", where=self.where)
            gains = rms[0] / rms * 10 ** (-self.level / 20)
            gains[0] = 1.0
            voices = voices * gains.astype(np.float32)[:, None]
        mixture = voices.sum(0) if mixture is None else mixture
        self._check(len(mixture), longest)
        return torch.from_numpy(mixture), torch.from_numpy(voices)

    def _check(self, mixture: int, longest: int) -> None:
        if mixture != longest:
            got = f"{mixture} and {longest} samples"
            raise DataFormatError("mixture and voices differ in length", where=self.where, expected="one length", got=got)


def read_list(path: str, folder: str | None = None) -> list[FixedMixture]:
    """The mixtures of a list.

    Args:
        path: CSV, or a folder with ``mix``, ``s1``, ``s2`` …; or an fsspec address of one.
        folder: what the paths of a CSV are relative to, or its address; by default the folder that holds it.

    Raises:
        ConfigError: no such list.
        DataFormatError: columns are missing, or a field is wrong; says file, line and field.
    """
    file, named = local(path), shown(path)
    if is_layout(file):
        return _read_layout(file)
    if not file.is_file():
        raise ConfigError("no such list of mixtures", where=named)
    with io.StringIO(_text(file), newline="") as stream:
        reader = csv.DictReader(stream)
        names = list(reader.fieldnames or [])
        mixed = "mixture_path" in names
        sources = _sources(names, "_path" if mixed else "", named)
        rows = []
        for row in reader:
            where = f"{named}:{reader.line_num}"
            missing = [name for name in [*sources, *(["mixture_path"] if mixed else [])] if not row[name]]
            if missing:
                raise DataFormatError("a field is empty", where=f"{where}: {missing[0]}", expected="a file")
            level = None if mixed else _level(row.get("level"), where)
            rows.append(([row[name] for name in sources], row["mixture_path"] if mixed else None, level, where, row.get("group")))
    if not rows:
        raise DataFormatError("the list is empty", where=named, expected="a mixture a line")
    root = local(folder or parent(path), only=[name for names, own, *_ in rows for name in [*names, *([own] if own else [])]])
    return [
        FixedMixture(tuple(root / name for name in names), root / own if own else None, level, where, group or "")
        for names, own, level, where, group in rows
    ]


def is_layout(folder: Path) -> bool:
    """Whether a folder holds mixtures and voices as WSJ0-2mix and LibriMix do."""
    return _mixed(folder) is not None and (folder / "s1").is_dir()


def _mixed(folder: Path) -> Path | None:
    return next((folder / name for name in MIXED if (folder / name).is_dir()), None)


def _read_layout(folder: Path) -> list[FixedMixture]:
    mixed = cast(Path, _mixed(folder))
    sources = [folder / f"s{number}" for number in itertools.takewhile(lambda n: (folder / f"s{n}").is_dir(), itertools.count(1))]
    mixtures = []
    for path in sorted(file for file in mixed.iterdir() if file.suffix.lower() in SUFFIXES):
        voices = tuple(source / path.name for source in sources)
        if missing := [str(voice) for voice in voices if not voice.is_file()]:
            raise DataFormatError("a voice is missing", where=str(path), expected=missing[0])
        mixtures.append(FixedMixture(voices, path, None, str(path)))
    if not mixtures:
        raise DataFormatError("the folder is empty", where=str(mixed), expected=", ".join(SUFFIXES))
    return mixtures


class FixedMixtures:
    """Segments of fixed mixtures to train with: ``draw(epoch, index, seconds)`` → (mixture (T), voices (C, T)).

    Which mixture and which segment of it depends on (seed, epoch, index) alone. Shorter mixtures are followed by silence.
    """

    def __init__(self, mixtures: Sequence[FixedMixture], rate: int, seed: int) -> None:
        self.mixtures, self.rate, self.seed = mixtures, rate, seed

    def draw(self, epoch: int, index: int, seconds: float) -> tuple[Tensor, Tensor]:
        """The segment of this place in this epoch."""
        random = np.random.default_rng((self.seed, epoch, index))
        mixture = self.mixtures[int(random.integers(len(self.mixtures)))]
        return mixture.segment(self.rate, round(seconds * self.rate), random)


def draw_list(speakers: Sequence[tuple[str, Sequence[str]]], count: int, sources: int, seed: int) -> list[list[str]]:
    """Rows of a list: ``count`` mixtures of files of different speakers, 0 to 5 dB apart, every speaker about as often.

    Args:
        speakers: name and files of each.
        count: mixtures.
        sources: voices in each.
        seed: of the random numbers.
    """
    random = np.random.default_rng(seed)
    waiting: list[int] = []
    rows = []
    for _ in range(count):
        if len(set(waiting)) < sources:
            waiting += random.permutation(len(speakers)).tolist()
        chosen: list[int] = []
        while len(chosen) < sources:
            place = next(place for place, number in enumerate(waiting) if number not in chosen)
            chosen.append(waiting.pop(place))
        files = [str(random.choice(speakers[number][1])) for number in chosen]
        rows.append([*files, f"{random.uniform(0, 5):.2f}"])
    return rows


def draw_mixtures(folder: str, count: int, sources: int, seed: int) -> list[FixedMixture]:
    """A list drawn from a folder with one folder of recordings a speaker; see ``draw_list``.

    Raises:
        ConfigError: fewer speakers than sources.
        DataFormatError: a file is no audio.
    """
    speech = Recordings(folder, rate=1, keep=False, least=sources)
    paths = [[str(recording.path) for recording in recordings] for recordings in speech.recordings]
    rows = draw_list(list(zip(speech.speakers, paths, strict=True)), count, sources, seed)
    names = [" and ".join(str(Path(path).relative_to(speech.root)) for path in files) for *files, _ in rows]
    return [
        FixedMixture(tuple(map(Path, files)), None, float(level), f"{shown(folder)}: {name}")
        for (*files, level), name in zip(rows, names, strict=True)
    ]


def _sources(names: Sequence[str], ending: str, path: str) -> list[str]:
    found: list[str] = []
    while f"source_{len(found) + 1}{ending}" in names:
        found.append(f"source_{len(found) + 1}{ending}")
    if len(found) < 2:
        expected = "source_1, source_2 … (and level), or mixture_path, source_1_path, source_2_path …"
        raise DataFormatError("columns are missing", where=f"{path}:1", expected=expected, got=", ".join(names))
    return found


def _text(file: Path) -> str:
    """With or without the mark that spreadsheets write at its head."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataFormatError("not text in UTF-8", where=f"{file}:{line}", got=error.reason) from error


def _level(text: str | None, where: str) -> float | None:
    if text is None or text == "":
        return None
    try:
        level = float(text)
    except ValueError:
        level = math.nan
    if not math.isfinite(level):
        raise DataFormatError("not a level", where=f"{where}: level", expected="a number of dB", got=text)
    return level


def _place(random: np.random.Generator, total: int, length: int) -> int:
    """First sample of a segment."""
    return int(random.integers(max(1, total - length + 1)))


def _load(path: Path, rate: int, where: str, start: int = 0, count: int = -1) -> Floats:
    """Mean of the channels; all of them, or ``count`` samples, at most, from ``start`` on (both at the file's own rate)."""
    try:
        samples, own = soundfile.read(str(path), count, start, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise DataFormatError("cannot be read", where=f"{where}: {path}", expected="audio", got=error) from error
    mono: Floats = samples.mean(axis=1, dtype=np.float32)
    return mono if own == rate else np.asarray(soxr.resample(mono, own, rate), np.float32)
