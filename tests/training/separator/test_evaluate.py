from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from pesq import pesq
from pystoi import stoi
from torchmetrics.functional.audio import scale_invariant_signal_noise_ratio, signal_distortion_ratio

from convoy import cli
from models.errors import ConfigError, DataFormatError
from tests.tiny import tiny_separator_bundle
from training.separator import evaluate as module
from training.separator.evaluate import evaluate

RATE = 8000


def voice(seed: int, seconds: float = 2.0) -> np.ndarray:
    """Harmonics under noise bands that come and go, as syllables do; STOI and PESQ take it for speech."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = 100 + 40 * seed
    tone = sum(np.sin(2 * np.pi * pitch * harmonic * time) / harmonic for harmonic in range(1, 15))
    syllables = np.clip(np.sin(2 * np.pi * (2 + 0.3 * seed) * time + seed), 0, 1)
    return (0.1 * (tone + 0.3 * random.standard_normal(len(time))) * syllables).astype(np.float32)


def disturbed(target: np.ndarray, level: float, seed: int) -> np.ndarray:
    """The target with noise orthogonal to it, ``level`` dB below it: by definition its SI-SNR."""
    noise = np.random.default_rng(seed).standard_normal(len(target))
    noise, centred = noise - noise.mean(), target - target.mean()
    noise -= centred * (noise @ centred) / (centred @ centred)
    return (target + noise * np.linalg.norm(centred) / np.linalg.norm(noise) * 10 ** (-level / 20)).astype(np.float32)


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voices")
    for seed in range(4):
        soundfile.write(folder / f"{seed}.wav", voice(seed), RATE, subtype="FLOAT")
    (folder / "list.csv").write_text("source_1,source_2,level,group\n0.wav,1.wav,,a\n2.wav,3.wav,,b\n", encoding="utf-8")
    return folder


@pytest.fixture
def separator(monkeypatch):
    """Answers with the targets of each mixture in turn, in reverse order, with noise at these levels."""
    levels = [(10.0, 20.0), (5.0, 7.0)]

    class FakeSeparator:
        sample_rate, sources, spec = RATE, ["speaker_1", "speaker_2"], SimpleNamespace(name="fake")
        calls = 0

        def separate(self, mixture, rate):
            first, second = (
                disturbed(voice(2 * self.calls + place), level, place) for place, level in enumerate(levels[self.calls])
            )
            self.calls += 1
            return np.stack([second, first])

    fake = FakeSeparator()
    monkeypatch.setattr(module.Separator, "load", lambda path: fake)
    return fake


def test_si_snr_is_that_of_the_noise_whatever_the_order_of_the_voices(separator, voices):
    result = evaluate("fake", voices / "list.csv", measures=["si_snr"])
    assert result["groups"]["a"]["si_snr"] == pytest.approx(15.0, abs=0.01)
    assert result["groups"]["b"]["si_snr"] == pytest.approx(6.0, abs=0.01)
    assert result["si_snr"] == pytest.approx(10.5, abs=0.01)
    assert result["si_snri"] == pytest.approx(result["si_snr"] - result["si_snr_input"], abs=1e-6)
    assert result["si_snri_standard_error"] == pytest.approx(
        abs(result["groups"]["a"]["si_snri"] - result["groups"]["b"]["si_snri"]) / 2 / 2**0.5, abs=1e-6
    )


def test_every_figure_is_that_of_the_library_that_defines_it(separator, voices):
    result = evaluate("fake", voices / "list.csv", count=1)
    targets = [voice(0), voice(1)]
    mixture = targets[0] + targets[1]
    for suffix, estimates in (("", [disturbed(targets[0], 10, 0), disturbed(targets[1], 20, 1)]), ("_input", [mixture, mixture])):
        pairs = list(zip(estimates, targets, strict=True))
        expected = {
            "si_snr": [scale_invariant_signal_noise_ratio(torch.tensor(a), torch.tensor(b)).item() for a, b in pairs],
            "sdr": [signal_distortion_ratio(torch.tensor(a), torch.tensor(b)).item() for a, b in pairs],
            "stoi": [stoi(b, a, RATE) for a, b in pairs],
            "pesq": [pesq(RATE, b, a, "nb") for a, b in pairs],
        }
        for name, values in expected.items():
            assert result[name + suffix] == pytest.approx(np.mean(values), rel=1e-3), name + suffix
    assert result["sdr"] >= result["si_snr"]  # its filters forgive more than one gain does
    assert result["pesqi"] > 0.1
    assert result["stoii"] > 0.05


def test_writes_what_it_found_the_worst_first_and_a_picture(separator, voices, tmp_path, capsys):
    result = evaluate("fake", voices / "list.csv", measures=["si_snr", "sdr"], out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8")) == result
    rows = json.loads((tmp_path / "out" / "mixtures.json").read_text("utf-8"))
    assert [row["where"].rsplit(":")[-1] for row in rows] == ["3", "2"]
    assert rows[0]["output"]["si_snr"] == pytest.approx(6.0, abs=0.01)
    assert (tmp_path / "out" / "improvement.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "fake on" in shown
    assert [line.split()[0] for line in shown.splitlines()[4:7]] == ["a", "b", "all"]


def test_what_has_no_figure_is_left_out_and_counted(separator, voices, monkeypatch, capsys):
    monkeypatch.setitem(module.FUNCTIONS, "stoi", lambda estimates, targets, rate: np.array([np.nan, 0.5]))
    result = evaluate("fake", voices / "list.csv", measures="stoi")
    assert result["stoi"] == 0.5
    assert "stoi_undefined" not in result  # one voice of each has a figure
    separator.calls, answers = 0, iter([np.nan, np.nan, 0.25, 0.25])
    monkeypatch.setitem(module.FUNCTIONS, "stoi", lambda estimates, targets, rate: np.array([next(answers)]))
    result = evaluate("fake", voices / "list.csv", measures=["stoi"])
    assert (result["stoi"], result["stoi_undefined"]) == (0.25, 1)
    assert result["groups"]["a"]["stoi"] is None
    assert [line.split()[1:] for line in capsys.readouterr().out.splitlines()[-3:-1]] == [
        ["1", "–", "–", "–"],
        ["1", "0.25", "0.25", "0.00"],
    ]


def test_mixtures_with_a_silent_voice_are_left_out_and_named(separator, tmp_path, capsys):
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    for seed in range(2):
        soundfile.write(tmp_path / f"{seed}.wav", voice(seed), RATE, subtype="FLOAT")
    (tmp_path / "list.csv").write_text("source_1,source_2\n0.wav,silence.wav\n0.wav,1.wav\n", encoding="utf-8")
    result = evaluate("fake", tmp_path / "list.csv", measures="si_snr")
    assert (result["mixtures"], result["si_snr"]) == (1, pytest.approx(15, abs=0.01))
    assert result["silent"] == [f"{tmp_path}/list.csv:2"]
    assert "silent" in capsys.readouterr().out


def test_pesq_of_a_long_recording_is_the_mean_of_its_pieces():
    """The library counts wrong beyond 50 utterances, and crashes later on."""
    pieces = [np.tile(voice(seed), 7) for seed in (0, 1, 2)]  # 14 s each
    target = torch.from_numpy(np.concatenate(pieces))[None]
    estimate = torch.from_numpy(disturbed(target[0].numpy(), 15, 1))[None]
    got = module.FUNCTIONS["pesq"](estimate, target, RATE)
    cut = [np.split(each[0].numpy(), 3) for each in (target, estimate)]
    assert got == pytest.approx([np.mean([pesq(RATE, a, b, "nb") for a, b in zip(*cut, strict=True)])])


def test_speech_too_short_for_pesq_and_stoi_has_no_figure():
    short = torch.from_numpy(np.stack([voice(0)[:1000], voice(1)[:1000]]))
    assert np.isnan(module.FUNCTIONS["pesq"](short, short, RATE)).all()
    assert np.isnan(module.FUNCTIONS["stoi"](short, short, RATE)).all()
    assert np.isnan(module.FUNCTIONS["stoi"](short[:, :100], short[:, :100], RATE)).all()


@pytest.mark.parametrize(
    ("content", "options", "error", "message"),
    [
        ("source_1,source_2\n0.wav,1.wav\n", {"measures": ["loudness"]}, ConfigError, "measures.*si_snr.*loudness"),
        ("source_1,source_2\n0.wav,1.wav\n", {"sample_rate": 11025}, ConfigError, "pesq.*8000 or 16000.*11025.*measures="),
        ("source_1,source_2\n0.wav,1.wav\n", {"count": 0}, ConfigError, "count.*at least 1"),
        ("source_1,source_2,source_3\n0.wav,1.wav,2.wav\n", {}, ConfigError, "list.csv:2.*expected 2.*got 3"),
        ("source_1,source_2\n0.wav,silence.wav\n", {}, DataFormatError, "list.csv:2.*silent"),
        ("source_1,source_2\n0.wav,1.wav\n", {"out": Path(__file__)}, ConfigError, "test_evaluate.py: cannot be made a folder"),
    ],
)
def test_what_cannot_be_judged_is_an_error_that_says_where(separator, tmp_path, content, options, error, message):
    for seed in range(3):
        soundfile.write(tmp_path / f"{seed}.wav", voice(seed), RATE)
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    (tmp_path / "list.csv").write_text(content, encoding="utf-8")
    with pytest.raises(error, match=rf"(?s){message}"):
        evaluate("fake", tmp_path / "list.csv", **options)


def test_a_folder_of_speakers_is_judged_on_mixtures_drawn_from_it(separator, tmp_path, monkeypatch):
    for seed in range(3):
        (tmp_path / f"speaker_{seed}").mkdir()
        soundfile.write(tmp_path / f"speaker_{seed}" / "a.wav", voice(seed), RATE)
    heard = []
    monkeypatch.setattr(separator, "separate", lambda mixture, rate: heard.append(mixture) or np.stack([mixture, mixture]))
    result = evaluate("fake", tmp_path, count=6, measures=["si_snr"])
    assert result["mixtures"] == len(heard) == 6
    assert result["si_snri"] == pytest.approx(0, abs=1e-6)  # the mixture itself is no better than the mixture
    evaluate("fake", tmp_path, count=6, measures=["si_snr"])
    assert all(np.array_equal(first, second) for first, second in zip(heard[:6], heard[6:], strict=True))
    with pytest.raises(ConfigError, match="too few speakers"):
        evaluate("fake", tmp_path / "speaker_0", measures=["si_snr"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "csv"], "format: no such setting here: expected folder, sample_rate, measures, count, seed"),
        (["--ratios", "0.5,0.5", "--part", "1"], "ratios, part: no such setting"),
        (["--option", "count=2.5"], "count: a setting has the wrong type"),
        (["--option", "measures=7"], "measures: a setting has the wrong type"),
    ],
)
def test_options_of_other_tasks_are_refused_by_name(voices, tmp_path, options, message):
    done = CliRunner().invoke(cli, ["evaluate", str(tiny_separator_bundle(tmp_path)), str(voices / "list.csv"), *options])
    assert done.exit_code == 2
    assert message in done.output


def test_the_command_line_judges_a_real_bundle(voices, tmp_path):
    bundle = tiny_separator_bundle(tmp_path)
    options = ["--option", f"folder={voices}", "--option", 'measures=["si_snr"]', "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, ["evaluate", str(bundle), str(voices / "list.csv"), *options])
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8"))
    assert figures["mixtures"] == 2
    assert figures["real_time_factor"] > 0
    assert figures["si_snri"] < 5  # random weights separate nothing
