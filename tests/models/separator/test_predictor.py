from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bundle import open_folder, write_bundle
from models.errors import AudioRateError, AudioSamplesError, BundleError, ConfigError, StoppedError
from models.separator import Separator
from models.separator.audio import Limits
from models.separator.levels import LEVEL
from tests.bundles import FILES, make_spec
from tests.tiny import tiny_segmenter_bundle, tiny_separator_bundle, tiny_separator_network


@pytest.fixture(scope="session", params=["separator", "live_separator"])
def one(request):
    """A separator of windows, then one of steps."""
    return request.getfixturevalue(request.param)


def noise(*shape, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def test_what_a_bundle_says_of_itself(separator, live_separator):
    assert (separator.sample_rate, separator.sources, separator.causal) == (8000, ["speaker_1", "speaker_2"], False)
    assert live_separator.causal
    assert separator.spec.labels == separator.sources


@settings(max_examples=25)
@given(st.integers(1, 7999))
def test_a_short_recording_is_the_network_on_the_whole(separator, samples):
    mixture = noise(samples, seed=samples) + np.float32(0.1)
    level = torch.tensor((mixture - mixture.mean(dtype=np.float64).astype(np.float32)) * LEVEL)
    with torch.no_grad():
        voices = tiny_separator_network(causal=False)(level[None])[0].numpy() / LEVEL
    expected = voices + (mixture - voices.sum(0)) / 2
    np.testing.assert_allclose(separator.separate(mixture, 8000), expected, atol=1e-5)


def test_a_long_recording_in_windows_is_the_network_on_the_whole_but_for_its_statistics(separator):
    """Noise whose statistics are the same in every window: then the windows agree with one pass to some -40 dB."""
    mixture = noise(70_000) + noise(70_000, seed=1) * np.sin(np.arange(70_000) / 3).astype(np.float32)
    with torch.no_grad():
        voices = tiny_separator_network(causal=False)(torch.tensor(mixture * LEVEL)[None])[0].numpy() / LEVEL
    error = separator.separate(mixture, 8000) - voices
    assert np.square(error).sum() < 1e-3 * np.square(voices[0] - voices[1]).sum()


@settings(max_examples=40)
@given(
    samples=st.integers(0, 40_000),
    rate=st.sampled_from([8000, 16_000, 44_100, 7999, 100]),
    gain=st.sampled_from([1e-4, 1e-2, 1.0, 1e4]),
)
def test_voices_have_the_length_of_the_mixture_and_add_up_to_it(one, samples, rate, gain):
    mixture = np.float32(gain) * noise(samples)
    voices = one.separate(mixture, rate)
    assert (voices.shape, voices.dtype) == ((2, samples), np.float32)
    np.testing.assert_allclose(voices.sum(0), mixture, atol=2e-6 * gain)


@pytest.mark.parametrize("gain", [1e-4, 1e-2, 3.0, 1e4])
@pytest.mark.parametrize("samples", [3000, 20_000])
def test_gain_in_is_gain_out(one, gain, samples):
    mixture = noise(samples)
    voices, louder = one.separate(mixture, 8000), one.separate(np.float32(gain) * mixture, 8000)
    assert np.abs(louder / np.float32(gain) - voices).max() < 1e-4 * np.abs(voices).max()


@pytest.mark.parametrize("offset", [-0.5, 0.3])
def test_an_offset_is_shared_and_changes_nothing_else(one, offset):
    mixture = noise(20_000)
    shifted = one.separate(mixture + np.float32(offset), 8000)
    np.testing.assert_allclose(shifted - np.float32(offset / 2), one.separate(mixture, 8000), atol=2e-5)


@pytest.mark.parametrize("samples", [1, 5, 7999, 8000, 30_000])
def test_digital_silence_gives_digital_silence(one, samples):
    assert not one.separate(np.zeros(samples, np.float32), 8000).any()
    constant = one.separate(np.full(samples, 0.25, np.float32), 8000)
    np.testing.assert_allclose(constant, 0.125, atol=1e-6)


def test_blocks_make_no_difference(one):
    mixture = noise(50_000)
    whole = one.separate(mixture, 16_000)
    for block in (333, 50_000):
        parts = one.separate_blocks((mixture[start : start + block] for start in range(0, 50_000, block)), 16_000)
        np.testing.assert_allclose(np.concatenate(list(parts), axis=1), whole, atol=1e-5)


def test_channels_are_mixed_down(one):
    stereo = noise(9000, 2)
    np.testing.assert_allclose(one.separate(stereo, 8000), one.separate(stereo.mean(axis=1), 8000), atol=1e-5)


def test_several_threads_at_once(one):
    mixtures = [noise(samples, seed=samples) for samples in (500, 3000, 9000, 20_000)]
    expected = [one.separate(mixture, 8000) for mixture in mixtures]
    with ThreadPoolExecutor(4) as pool:
        for number, voices in enumerate(pool.map(lambda mixture: one.separate(mixture, 8000), mixtures * 3)):
            np.testing.assert_allclose(voices, expected[number % 4], atol=1e-6)


@pytest.mark.parametrize(
    ("mixture", "rate", "kind"),
    [
        (np.array([0, np.nan], np.float32), 8000, AudioSamplesError),
        (np.zeros((2, 2, 2), np.float32), 8000, AudioSamplesError),
        (np.zeros(10, np.float32), 1, AudioRateError),
        (np.zeros(10, np.float32), 10**9, AudioRateError),
        (np.zeros(10, np.float32), 8000.5, AudioRateError),
    ],
)
def test_bad_input_is_refused_and_the_next_call_works(one, mixture, rate, kind):
    with pytest.raises(kind):
        one.separate(mixture, rate)
    assert one.separate(noise(100), 8000).shape == (2, 100)


def test_from_file_to_file(one, tmp_path):
    stereo = noise(60_000, 2)
    soundfile.write(tmp_path / "talk.flac", stereo, 22_050, subtype="PCM_24")
    mixture = soundfile.read(tmp_path / "talk.flac", dtype="float32")[0].mean(axis=1)
    seen: list[tuple[float, float]] = []
    written = one.separate_file(
        tmp_path / "talk.flac", tmp_path / "out.wav", progress=lambda done, total: seen.append((done, total))
    )
    got, rate = soundfile.read(written.paths[0], dtype="float32")
    assert (rate, written.seconds, written.scale) == (22_050, 60_000 / 22_050, 1.0)
    np.testing.assert_allclose(got.T, one.separate(mixture, 22_050), atol=1e-5)
    assert seen == sorted(seen)
    assert seen[-1] == (60_000 / 22_050, 60_000 / 22_050)
    with (tmp_path / "talk.flac").open("rb") as file:
        written = one.separate_file(file, tmp_path / "each.flac", layout="files", subtype="PCM_16")
    assert [path.name for path in written.paths] == ["each-speaker_1.flac", "each-speaker_2.flac"]
    total = sum(soundfile.read(path, dtype="float32")[0] for path in written.paths)
    np.testing.assert_allclose(total, mixture, atol=4e-5)


def test_a_file_is_not_written_over_itself(separator, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(1000), 8000)
    with pytest.raises(ConfigError, match="overwrite its input"):
        separator.separate_file(tmp_path / "a.wav", tmp_path / "b" / ".." / "a.wav")
    assert soundfile.info(tmp_path / "a.wav").frames == 1000


def test_stopping_leaves_nothing_behind(one, tmp_path):
    content = io.BytesIO()
    soundfile.write(content, noise(200_000), 8000, format="WAV")
    done: list[float] = []
    with pytest.raises(StoppedError, match="talk: stopped"):
        one.separate_file(
            content,
            tmp_path / "a.wav",
            name="talk",
            progress=lambda seconds, _: done.append(seconds),
            cancelled=lambda: bool(done) and done[-1] > 3,
        )
    assert 3 < done[-1] < 20
    assert not list(tmp_path.iterdir())


def test_limits_are_those_of_the_recording(separator, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(10_000), 8000)
    with pytest.raises(BaseException, match="at most 1 s"):
        separator.separate_file(tmp_path / "a.wav", tmp_path / "b.wav", limits=Limits(seconds=1))


@pytest.mark.parametrize("causal", [True, False])
def test_a_network_that_is_made_for_something_else_is_refused(tmp_path, causal):
    bundle = open_folder(tiny_separator_bundle(tmp_path, causal))
    other = tiny_segmenter_bundle(tmp_path) / "network.onnx"
    files = {name: bundle.path / name for name in bundle.spec.files} | {"network.onnx": other}
    path = write_bundle(tmp_path / "mixed", bundle.spec, files)
    with pytest.raises(BundleError, match=r"do not fit together|does not take what it should"):
        Separator.load(path)


def test_a_bundle_of_another_task(tmp_path):
    path = write_bundle(tmp_path / "tagger", make_spec(), FILES)
    with pytest.raises(BundleError, match="not a separator: expected a bundle of task 'separator', got tagger"):
        Separator.load(path)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("sample_rate", 1, "preprocessing.sample_rate"),
        ("sources", [], "preprocessing.sources"),
        ("sources", [str(number) for number in range(9)], "preprocessing.sources"),
        ("hop", 7, "hop 7"),
        ("lead", 3, "lead 3"),
        ("overlap_seconds", 0.6, "share more than half"),
        ("colour", "blue", "preprocessing.colour"),
    ],
)
def test_settings_that_make_no_sense_are_named(tmp_path, field, value, says):
    bundle = open_folder(tiny_separator_bundle(tmp_path))
    manifest = bundle.path / "bundle.json"
    content = json.loads(manifest.read_text("utf-8"))
    content["preprocessing"][field] = value
    manifest.write_text(json.dumps(content), "utf-8")
    with pytest.raises(BundleError) as caught:
        Separator.load(Path(bundle.path))
    assert says in str(caught.value)
    assert "bundle.json" in str(caught.value)
