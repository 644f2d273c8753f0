"""The recording of two speakers that the README and the page offer, and its voices, made of public prompts:

convoy fetch voices-it voices-ru
python -m training.separator.sample data services/page/samples
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import soundfile
from numpy.typing import NDArray

from models.errors import DataFormatError

VOICES = ("voices-it/demo-congrats.wav", "voices-ru/demo-congrats.wav")  # Carlo Flora, a woman of ivrvoice.ru
RATE = 8000
SECONDS = 10.0
LEVELS = (-24.0, -26.0)  # RMS, dB of full scale
NAME = "two-speakers"


def make_sample(data: Path, out: Path, voices: Sequence[str] = VOICES, seconds: float = SECONDS) -> Path:
    """Write ``two-speakers.flac``, its voices ``two-speakers-1.flac``, ``-2.flac``, and a list of the three for
    ``convoy evaluate``. All 16 bits at 8 kHz; the mixture is exactly the sum of the voices.

    Args:
        data: folder of ``convoy fetch``.
        out: folder to write into.
        voices: files in ``data``, one a speaker.
        seconds: from the beginning of each.

    Returns:
        The mixture.

    Raises:
        DataFormatError: a file is missing, shorter, or of another rate.
    """
    levelled = [_at(_read(data / voice, seconds), level, voice) for voice, level in zip(voices, LEVELS, strict=True)]
    out.mkdir(parents=True, exist_ok=True)
    names = [f"{NAME}.flac", *(f"{NAME}-{number}.flac" for number in range(1, len(voices) + 1))]
    for name, samples in zip(names, [np.sum(levelled, axis=0, dtype=np.int16), *levelled], strict=True):
        soundfile.write(str(out / name), samples, RATE, subtype="PCM_16")
    header = ",".join(["mixture_path", *(f"source_{number}_path" for number in range(1, len(voices) + 1))])
    (out / f"{NAME}.csv").write_text(f"{header}\n{','.join(names)}\n", encoding="utf-8")
    return out / names[0]


def _read(path: Path, seconds: float) -> NDArray[np.float64]:
    try:
        samples, rate = soundfile.read(str(path), frames=round(seconds * RATE))
    except (OSError, soundfile.LibsndfileError) as error:
        raise DataFormatError("cannot be read", where=str(path), got=error, fix="convoy fetch voices-it voices-ru") from error
    if rate != RATE or samples.shape != (round(seconds * RATE),):
        got = f"{samples.shape} at {rate} Hz"
        raise DataFormatError("not such a recording", where=str(path), expected=f"{seconds} s, mono, {RATE} Hz", got=got)
    found: NDArray[np.float64] = samples
    return found


def _at(samples: NDArray[np.float64], level: float, where: str) -> NDArray[np.int16]:
    scaled = samples * (10 ** (level / 20) / np.sqrt(np.mean(samples**2)))
    if np.abs(scaled).max() >= 0.5:  # two of them must fit
        raise DataFormatError("would clip", where=where, expected=f"peaks below 0.5 at {level} dB", got=np.abs(scaled).max())
    rounded: NDArray[np.int16] = np.round(scaled * 32767).astype(np.int16)
    return rounded


if __name__ == "__main__":
    source, target = sys.argv[1:3] if len(sys.argv) == 3 else ("data", "services/page/samples")
    click.echo(make_sample(Path(source), Path(target)))
