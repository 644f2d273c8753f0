from __future__ import annotations

import csv
import errno
import os
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch

from models.errors import ConfigError, DataFormatError, OutputError
from tests.training.separator.speakers import write_speakers
from training.places import Places
from training.separator.data import MixtureList, SeparatorData, Stage
from training.separator.mixtures import draw_list, read_list
from training.separator.speech import DynamicMixtures, Mixing, Recordings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("speech")
    write_speakers(root, 5)
    return root


def level(samples: torch.Tensor) -> float:
    return float(10 * samples.square().mean().log10())


def pitch(samples: torch.Tensor) -> float:
    """Hz of the strongest partial."""
    return float(torch.fft.rfft(samples * torch.hann_window(len(samples))).abs().argmax()) * 8000 / len(samples)


def test_a_mixture_is_the_sum_of_two_speakers_at_the_levels_asked_for(folder):
    mixtures = DynamicMixtures(Recordings(str(folder), 8000), None, Mixing(level=5.0, gain=(-30, -20), speeds=[1.0]), 1)
    differences = []
    for index in range(40):
        mixture, voices = mixtures.draw(0, index, 1.0)
        assert torch.allclose(mixture, voices.sum(0))
        assert voices.shape == (2, 8000)
        assert abs(pitch(voices[0]) - pitch(voices[1])) > 15  # never one speaker twice
        assert -30.1 <= level(voices[0]) <= -19.9
        differences.append(level(voices[1]) - level(voices[0]))
    assert max(map(abs, differences)) <= 5.01
    assert min(differences) < -3
    assert max(differences) > 3


def test_a_mixture_depends_on_seed_epoch_and_index_alone(folder):
    def drawn(seed, epoch, index, keep=True):
        return DynamicMixtures(Recordings(str(folder), 8000, keep), None, Mixing(), seed).draw(epoch, index, 0.5)[0]

    again = DynamicMixtures(Recordings(str(folder), 8000), None, Mixing(), 1)
    for index in (3, 1, 2):
        again.draw(0, index, 0.5)
    assert torch.equal(again.draw(0, 0, 0.5)[0], drawn(1, 0, 0))
    assert (drawn(1, 0, 0) - drawn(1, 0, 0, keep=False)).abs().max() < 1e-3  # 16 bits
    assert all((drawn(1, 0, 0) - other).abs().max() > 0.01 for other in (drawn(2, 0, 0), drawn(1, 1, 0), drawn(1, 0, 1)))


def test_speed_moves_the_pitch(folder):
    slow, fast = (DynamicMixtures(Recordings(str(folder), 8000), None, Mixing(speeds=[speed]), 1) for speed in (0.8, 1.2))
    for index in range(5):
        pairs = zip(slow.draw(0, index, 0.8)[1], fast.draw(0, index, 0.8)[1], strict=True)
        assert all(pitch(quick) / pitch(calm) == pytest.approx(1.5, rel=0.05) for calm, quick in pairs)


def test_a_short_recording_is_used_whole(folder):
    _, voices = DynamicMixtures(Recordings(str(folder), 8000), None, Mixing(speeds=[1.0]), 1).draw(0, 0, 4.0)
    heard = (voices.abs() > 1e-5).any(0).nonzero().flatten()
    assert voices.shape == (2, 32000)
    assert all(int((voice.abs() > 0).sum()) > 11_000 for voice in voices)
    assert len(heard) < 2 * 12_000 + 10


def test_noise_is_in_the_mixture_and_in_no_voice(folder):
    noise = Recordings(str(folder), 8000)
    mixture, voices = DynamicMixtures(Recordings(str(folder), 8000), noise, Mixing(noise_level=(-10, -10)), 1).draw(0, 0, 1.0)
    assert level(mixture - voices.sum(0)) == pytest.approx(level(voices[0]) - 10, abs=0.1)


def test_other_rates_are_resampled(tmp_path):
    write_speakers(tmp_path, 2, seconds=1.0, rate=16000)
    recordings = Recordings(str(tmp_path), 8000)
    for keep in (True, False):
        recordings.keep = keep
        samples = torch.from_numpy(recordings.read(recordings.recordings[1][0], 0.0, 1.0))
        assert len(samples) == 8000
        assert pitch(samples) == pytest.approx(130, abs=2)


def test_folders_that_hold_too_little(tmp_path):
    with pytest.raises(ConfigError, match="at least 2"):
        Recordings(str(tmp_path), 8000, least=2)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.flac").write_bytes(b"no audio")
    with pytest.raises(DataFormatError, match=r"x\.flac"):
        Recordings(str(tmp_path), 8000)


def write_list(path, header, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return str(path)


def test_a_list_mixes_whole_files_at_its_level(folder, tmp_path):
    listed = write_list(
        tmp_path / "list.csv", ["source_1", "source_2", "level"], [["speaker_0/0.flac", "speaker_3/1.flac", "4.0"]]
    )
    [fixed] = read_list(listed, str(folder))
    mixture, voices = fixed.load(8000)
    own, _ = soundfile.read(folder / "speaker_0/0.flac", dtype="float32")
    assert np.array_equal(voices[0].numpy(), own)
    assert level(voices[0]) - level(voices[1]) == pytest.approx(4.0, abs=0.01)
    assert torch.allclose(mixture, voices.sum(0))


def test_a_list_of_librimix_reads_mixtures(folder, tmp_path):
    rows = [["m1", "speaker_0/0.flac", "speaker_1/0.flac", "speaker_2/0.flac", "12000"]]
    header = ["mixture_ID", "mixture_path", "source_1_path", "source_2_path", "length"]
    [fixed] = read_list(write_list(tmp_path / "list.csv", header, rows), str(folder))
    mixture, voices = fixed.load(8000)
    assert np.array_equal(mixture.numpy(), soundfile.read(folder / "speaker_0/0.flac", dtype="float32")[0])
    assert voices.shape == (2, 12000)


@pytest.mark.parametrize(
    ("header", "row", "told"),
    [
        (["source_1", "level"], ["a", "1"], "list.csv:1: columns"),
        (["source_1", "source_2", "level"], ["a", "", "1"], "list.csv:2: source_2"),
        (["source_1", "source_2", "level"], ["a", "b", "loud"], "list.csv:2: level"),
    ],
)
def test_lists_that_are_wrong(tmp_path, header, row, told):
    with pytest.raises(DataFormatError, match=told):
        read_list(write_list(tmp_path / "list.csv", header, [row]))


def test_a_drawn_list_pairs_different_speakers_evenly():
    speakers = [(f"s{number}", [f"s{number}/a", f"s{number}/b"]) for number in range(7)]
    rows = draw_list(speakers, 70, 2, 1)
    counts = Counter(name.split("/")[0] for row in rows for name in row[:2])
    assert all(row[0].split("/")[0] != row[1].split("/")[0] for row in rows)
    assert max(counts.values()) - min(counts.values()) <= 3
    assert all(0 <= float(row[2]) <= 5 for row in rows)
    assert rows == draw_list(speakers, 70, 2, 1)


def test_batches_follow_the_stages_and_are_dealt_out(folder, tmp_path):
    listed = write_list(tmp_path / "list.csv", ["source_1", "source_2", "level"], [["speaker_0/0.flac", "speaker_1/0.flac", "0"]])
    stages = [Stage(2, 1.0, 2), Stage(0, 0.5, 4)]
    data = SeparatorData(str(folder), MixtureList(listed, str(folder), 0.3), stages=stages, batches=6)
    data.setup("fit")
    assert data.drawn[(1, 0)].voices.shape == (4, 2, 4000)
    assert data.drawn[(2, 0)].mixture.shape == (2, 8000)
    ranks = [list(Places(6, rank, 2)) for rank in (0, 1)]
    assert sorted(place for rank in ranks for place in rank) == [(0, number) for number in range(6)]
    [batch] = data.val_dataloader()
    assert batch.mixture.shape == (1, 2400)
    with pytest.raises(ConfigError, match="epoch 0"):
        SeparatorData(str(folder), MixtureList(listed), stages=[Stage(1, 1.0, 1)])


@pytest.mark.parametrize("mixed", ["mix", "mix_clean", "mix_both"])
def test_folders_as_wsj0_2mix_and_librimix_have_them(folder, tmp_path, mixed):
    rng = np.random.default_rng(0)
    voices = {name: rng.uniform(-0.2, 0.2, (3, 4000)).astype(np.float32) for name in "ab"}
    for name, (first, second, third) in voices.items():
        for part, samples in ((mixed, first + second + third), ("s1", first), ("s2", second), ("s3", third), ("noise", first)):
            (tmp_path / part).mkdir(exist_ok=True)
            soundfile.write(tmp_path / part / f"{name}.wav", samples, 8000, subtype="FLOAT")
    first, second = read_list(str(tmp_path))
    mixture, loaded = second.load(8000)
    assert np.array_equal(loaded.numpy(), voices["b"])
    assert np.allclose(mixture, voices["b"].sum(0), atol=1e-6)
    assert first.where == str(tmp_path / mixed / "a.wav")
    (tmp_path / "s2" / "b.wav").unlink()
    with pytest.raises(DataFormatError, match=r"voice is missing.*s2/b\.wav|b\.wav.*missing"):
        read_list(str(tmp_path))


def test_training_may_draw_segments_of_fixed_mixtures(folder, tmp_path):
    (tmp_path / "list.csv").write_text("source_1,source_2,level\nspeaker_0/0.flac,speaker_1/0.flac,3\n", encoding="utf-8")
    listed = MixtureList(str(tmp_path / "list.csv"), str(folder))
    data = SeparatorData(listed, listed, stages=[Stage(0, 0.5, 3)], batches=4, seed=5)
    data.setup("fit")
    whole_mixture, whole_voices = read_list(listed.path, listed.folder)[0].load(8000)
    batches = [data.drawn[0, number] for number in range(4)]
    starts = set()
    for batch in batches:
        assert batch.mixture.shape == (3, 4000)
        assert torch.allclose(batch.mixture, batch.voices.sum(1))
        for mixture, voices in zip(batch.mixture, batch.voices, strict=True):
            [start] = (start for start in range(8001) if torch.equal(whole_mixture[start : start + 4000], mixture))
            assert torch.equal(whole_voices[:, start : start + 4000], voices)
            starts.add(start)
    assert len(starts) > 8
    assert torch.equal(data.drawn[0, 2].mixture, batches[2].mixture)
    assert not torch.equal(data.drawn[1, 2].mixture, batches[2].mixture)
    long, _ = data.drawn.mixtures.draw(0, 0, 2.0)  # the recordings have a second and a half
    assert long.shape == (16_000,)
    assert not long[12_000:].any()


@pytest.mark.parametrize("own_rate", [8000, 11_025])
@pytest.mark.parametrize("header", ["mixture_path,source_1_path,source_2_path", "source_1,source_2"])
def test_a_segment_is_a_part_of_the_whole_however_little_is_decoded(tmp_path, header, own_rate):
    rng = np.random.default_rng(0)
    first, second = (rng.uniform(-0.2, 0.2, length).astype(np.float32) for length in (9000, 5000))
    mixture = first + np.pad(second, (0, 4000))
    for name, samples in (("m", mixture), ("a", first), ("b", second)):
        soundfile.write(tmp_path / f"{name}.wav", samples, own_rate, subtype="FLOAT")
    row = "m.wav,a.wav,b.wav" if "mixture" in header else "a.wav,b.wav"
    (tmp_path / "list.csv").write_text(f"{header}\n{row}\n", encoding="utf-8")
    [fixed] = read_list(str(tmp_path / "list.csv"))
    whole = torch.cat([fixed.load(8000)[0][None], fixed.load(8000)[1]])
    for length in (500, 3000, 12_000):
        padded = torch.nn.functional.pad(whole, (0, max(0, length - whole.shape[1])))
        for seed in range(10):
            drawn = torch.cat([part.reshape(-1, length) for part in fixed.segment(8000, length, np.random.default_rng(seed))])
            start = int(np.random.default_rng(seed).integers(max(1, whole.shape[1] - length + 1)))
            assert torch.equal(drawn, padded[:, start : start + length])


def test_a_mixture_of_another_length_is_told_before_anything_is_decoded(tmp_path):
    for name, length in (("m", 4000), ("a", 5000), ("b", 5000)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(length, 0.1), 8000)
    (tmp_path / "list.csv").write_text("mixture_path,source_1_path,source_2_path\nm.wav,a.wav,b.wav\n", encoding="utf-8")
    [fixed] = read_list(str(tmp_path / "list.csv"))
    with pytest.raises(DataFormatError, match=r"list\.csv:2.*4000 and 5000 samples"):
        fixed.segment(8000, 100, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"source_1,source_2,level\na.wav,b.wav,nan\n", r"list\.csv:2: level.*number of dB.*nan"),
        (b"source_1,source_2,level\na.wav,b\xe9.wav,1\n", r"list\.csv:2: not text in UTF-8"),
    ],
)
def test_lists_that_are_none_say_where(tmp_path, content, message):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(DataFormatError, match=message):
        read_list(str(tmp_path / "list.csv"))


def test_a_list_saved_by_a_spreadsheet(tmp_path):
    (tmp_path / "list.csv").write_text("source_1,source_2,level\r\na.wav,b.wav,1\r\n", encoding="utf-8-sig", newline="")
    assert read_list(str(tmp_path / "list.csv"))[0].level == 1


def test_an_empty_recording_is_named(tmp_path):
    write_speakers(tmp_path, 2)
    soundfile.write(tmp_path / "speaker_0" / "empty.wav", np.zeros(0), 8000)
    with pytest.raises(DataFormatError, match=r"empty\.wav: nothing is in it"):
        Recordings(str(tmp_path), 8000)


def test_decoded_speech_that_was_damaged_is_made_again(folder, tmp_path):
    speech = Recordings(str(folder), 8000, cache=str(tmp_path / "cache"))
    recording = speech.recordings[0][0]
    whole = speech.read(recording, 0, 10)
    [file] = (tmp_path / "cache").rglob("*.npy")
    content = file.read_bytes()
    for damaged in (b"", content[:50], content[:200], content[:-2], b"no array at all" * 20):
        file.write_bytes(damaged)
        assert np.array_equal(speech.read(recording, 0, 10), whole)
        assert file.read_bytes() == content


def test_decoded_speech_that_cannot_be_kept_says_why(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    speech = Recordings(str(folder), 8000, cache=str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"file.*cannot be kept.*name another folder"):
        speech.read(speech.recordings[0][0], 0, 1)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    def read_only(self, missing_ok=False):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fsync", full)
    speech = Recordings(str(folder), 8000, cache=str(tmp_path / "cache"))
    with pytest.raises(OutputError, match=r"cache.*cannot be kept.*No space left.*Make room"):
        speech.read(speech.recordings[0][0], 0, 1)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    monkeypatch.setattr("pathlib.Path.unlink", read_only)
    with pytest.raises(OutputError, match="No space left"):
        speech.read(speech.recordings[0][0], 0, 1)


def test_a_count_of_no_mixtures_is_refused():
    for count in (0, -1):
        with pytest.raises(ConfigError, match=r"count.*at least 1"):
            MixtureList("list.csv", count=count)
