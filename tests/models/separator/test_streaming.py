from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import AudioRateError, AudioSamplesError, UnprocessableError
from models.separator.levels import LEVEL, RunningMean
from tests.tiny import tiny_separator_network


def noise(*shape, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def push_all(stream, samples, sizes):
    parts, start, number = [], 0, 0
    while start < len(samples):
        size = sizes[number % len(sizes)]
        parts.append(stream.push(samples[start : start + size]))
        start, number = start + size, number + 1
    return np.concatenate([*parts, stream.flush()], axis=1)


def expected(samples):
    """The torch network on all of it at once."""
    level = torch.tensor(RunningMean(8000).remove(samples) * LEVEL)
    with torch.no_grad():
        voices = tiny_separator_network(causal=True)(level[None])[0].numpy() / LEVEL
    return voices + (samples - voices.sum(0)) / 2


@settings(max_examples=40)
@given(st.integers(0, 3000), st.lists(st.integers(0, 700), min_size=1, max_size=5).filter(any), st.integers(0, 9))
def test_any_chunks_give_the_voices_of_the_network_on_the_whole(live_separator, samples, sizes, seed):
    mixture = noise(samples, seed=seed) + np.float32(0.05)
    got = push_all(live_separator.stream(8000), mixture, sizes)
    assert got.shape == (2, samples)
    assert got.dtype == np.float32
    if samples:
        np.testing.assert_allclose(got, expected(mixture), atol=1e-5)
        np.testing.assert_allclose(got, live_separator.separate(mixture, 8000), atol=1e-5)
        np.testing.assert_allclose(got.sum(0), mixture, atol=1e-6)


@settings(max_examples=25)
@given(st.sampled_from([44_100, 48_000, 16_000, 11_025, 7999, 4000]), st.lists(st.integers(1, 3000), min_size=1, max_size=4))
def test_any_rate_and_chunks_give_the_voices_of_the_whole(live_separator, rate, sizes):
    mixture = noise(rate // 2 + 3)
    got = push_all(live_separator.stream(rate), mixture, sizes)
    np.testing.assert_allclose(got, live_separator.separate(mixture, rate), atol=1e-5)
    np.testing.assert_allclose(got.sum(0), mixture, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000])
def test_voices_are_no_further_behind_than_told(live_separator, rate):
    stream, behind, chunk = live_separator.stream(rate), [], 7
    for _ in range(300):
        behind.append(behind[-1] if behind else 0)
        behind[-1] += chunk - stream.push(noise(chunk)).shape[1]
    assert max(behind) <= stream.delay_samples
    assert stream.delay_seconds == stream.delay_samples / rate
    assert stream.delay_samples == live_separator.settings.length if rate == 8000 else stream.delay_seconds < 0.015


def test_a_voice_does_not_know_what_comes(live_separator):
    first, second = noise(2000), noise(2000)
    second[1000:] = noise(1000, seed=5)
    got = [live_separator.separate(each, 8000)[:, :1000] for each in (first, second)]
    np.testing.assert_array_equal(got[0][:, : 1000 - 20], got[1][:, : 1000 - 20])
    assert np.abs(live_separator.separate(first, 8000) - live_separator.separate(second, 8000))[:, 1000:].max() > 1e-3


def test_a_bad_chunk_is_refused_and_leaves_the_stream_as_it_was(live_separator):
    mixture = noise(2000)
    stream = live_separator.stream(8000)
    parts = [stream.push(mixture[:777])]
    for bad in (np.array([0.1, np.nan], np.float32), np.array([np.inf]), np.zeros((2, 2, 2), np.float32)):
        with pytest.raises(AudioSamplesError, match="the stream"):
            stream.push(bad)
    with pytest.raises(AudioSamplesError, match="the stream: sample 778"):
        stream.push(np.array([0.1, np.nan], np.float32))
    parts += [stream.push(mixture[777:]), stream.flush()]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), live_separator.separate(mixture, 8000), atol=1e-6)


def test_after_flush_a_stream_begins_anew(live_separator):
    stream = live_separator.stream(16_000)
    first = push_all(stream, noise(3000), [500])
    np.testing.assert_array_equal(push_all(stream, noise(3000), [500]), first)
    assert stream.flush().shape == (2, 0)


def test_streams_do_not_disturb_each_other(live_separator):
    streams = [live_separator.stream(8000) for _ in range(3)]
    mixtures = [noise(2000, seed=seed) for seed in range(3)]
    parts = [[], [], []]
    for start in range(0, 2000, 250):
        for stream, mixture, got in zip(streams, mixtures, parts, strict=True):
            got.append(stream.push(mixture[start : start + 250]))
    for stream, mixture, got in zip(streams, mixtures, parts, strict=True):
        whole = live_separator.separate(mixture, 8000)
        np.testing.assert_allclose(np.concatenate([*got, stream.flush()], axis=1), whole, atol=1e-5)


def test_channels_are_mixed_down(live_separator):
    stereo = noise(1500, 2)
    got = push_all(live_separator.stream(8000), stereo, [400])
    np.testing.assert_allclose(got.sum(0), stereo.mean(1), atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 44_100])
def test_state_does_not_grow(live_separator, rate):
    stream, sizes = live_separator.stream(rate), []
    for _ in range(60):
        stream.push(noise(rate // 10))
        sizes.append(stream.state_bytes)
    assert max(sizes[30:]) <= max(sizes[:30])
    assert max(sizes) < 200_000


def test_digital_silence_is_silence_before_and_after_sound(live_separator):
    stream = live_separator.stream(8000)
    assert not stream.push(np.zeros(4000, np.float32)).any()
    stream.push(noise(4000))
    got = stream.push(np.zeros(16_000, np.float32))
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got[:, 100:].sum(0), 0, atol=1e-6)


def test_what_cannot_stream_says_so(separator, live_separator):
    with pytest.raises(UnprocessableError, match=r"whole recording.*expected a causal bundle.*separator-2speakers-causal"):
        separator.stream(8000)
    with pytest.raises(AudioRateError, match="100 to 768000 Hz, got 99"):
        live_separator.stream(99)
