"""Small speech-like recordings for tests: a folder a speaker, each speaker a pitch of their own; mixtures of two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile


def write_speakers(folder: Path, speakers: int, files: int = 2, seconds: float = 1.5, rate: int = 8000) -> None:
    """``folder/speaker_i/j.flac``: a harmonic tone of 100 + 30·i Hz that comes and goes."""
    time = np.arange(int(seconds * rate)) / rate
    for speaker in range(speakers):
        for number in range(files):
            pitch = 100 + 30 * speaker
            tone = sum(np.sin(2 * np.pi * pitch * harmonic * time) / harmonic for harmonic in range(1, 6))
            samples = 0.1 * tone * (1 + np.sin(2 * np.pi * (number + 1) * time))
            path = folder / f"speaker_{speaker}" / f"{number}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, rate)


def write_mixtures(folder: Path, seconds: float = 1.5, rate: int = 8000) -> None:
    """``folder/mix/0.wav``, ``folder/s1/0.wav``, ``folder/s2/0.wav``, as WSJ0-2mix has them."""
    time = np.arange(int(seconds * rate)) / rate
    voices = [0.1 * np.sin(2 * np.pi * pitch * time) for pitch in (150, 410)]
    for part, samples in (("mix", sum(voices)), ("s1", voices[0]), ("s2", voices[1])):
        (folder / part).mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / part / "0.wav", samples, rate)
