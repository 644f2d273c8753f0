from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.errors import DataFormatError
from training.separator.mixtures import read_list
from training.separator.sample import make_sample

SAMPLES = Path(__file__).resolve().parents[3] / "services" / "page" / "samples"


def test_the_mixture_is_the_sum_of_two_voices_at_their_levels(tmp_path):
    random = np.random.default_rng(0)
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", 0.3 * random.standard_normal(8000), 8000)
    path = make_sample(tmp_path, tmp_path / "out", ["a.wav", "b.wav"], 0.5)
    mixture, rate = soundfile.read(path, dtype="int16")
    voices = [soundfile.read(path.parent / f"two-speakers-{number}.flac", dtype="int16")[0] for number in (1, 2)]
    assert (len(mixture), rate) == (4000, 8000)
    assert (mixture == voices[0] + voices[1]).all()
    levels = [20 * np.log10(np.sqrt(np.mean((voice / 32767) ** 2))) for voice in voices]
    assert levels == pytest.approx([-24, -26], abs=0.01)


@pytest.mark.parametrize("rate", [None, 16000])
def test_a_voice_that_is_missing_or_of_another_rate(tmp_path, rate):
    if rate:
        soundfile.write(tmp_path / "a.wav", np.ones(16000), rate)
    with pytest.raises(DataFormatError, match=r"a\.wav"):
        make_sample(tmp_path, tmp_path / "out", ["a.wav", "a.wav"], 0.5)
    assert not (tmp_path / "out").exists()


def test_voices_that_would_clip_are_refused(tmp_path):
    click = np.zeros(8000)
    click[::500] = 1.0
    soundfile.write(tmp_path / "a.wav", click, 8000)
    with pytest.raises(DataFormatError, match=r"a\.wav: would clip"):
        make_sample(tmp_path, tmp_path / "out", ["a.wav", "a.wav"], 0.5)


def test_the_published_recording_is_whole():
    [listed] = read_list(str(SAMPLES / "two-speakers.csv"))
    mixture, voices = listed.load(8000)
    assert mixture.shape == (80_000,)
    assert (mixture - voices.sum(0)).abs().max() < 1e-6
    assert (SAMPLES / "README.md").read_text("utf-8").count("CC BY") == 3
