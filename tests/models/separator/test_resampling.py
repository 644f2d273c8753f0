from __future__ import annotations

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from models.separator.resampling import LiveResampler, Resampler

RATES = [(48_000, 8000), (8000, 48_000), (44_100, 8000), (8000, 44_100), (16_000, 8000), (8000, 7999), (100, 8000), (8000, 100)]
KINDS = [Resampler, LiveResampler]


def run(resampler, samples, sizes=(10_000,)):
    parts, start, number = [], 0, 0
    while start < samples.shape[1]:
        size = sizes[number % len(sizes)]
        parts.append(resampler.push(samples[:, start : start + size]))
        start, number = start + size, number + 1
    return np.concatenate([*parts, resampler.flush()], axis=1)


def chirp(rate, seconds, highest, shift=0.0):
    """A sine that rises from 0 to ``highest`` Hz, fading in and out."""
    at = np.arange(int(seconds * rate)) / rate - shift
    wave = np.sin(np.pi * highest * at**2 / seconds) * np.sin(np.pi * at / seconds) ** 2
    return wave.astype(np.float32)[None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("source", "target"), RATES)
def test_a_chirp_stays_where_it_is(kind, source, target):
    """Compared with the same chirp drawn at the other rate: neither shifted, nor louder, nor softer."""
    low = min(source, target)
    seconds = 1.0 if low > 1000 else 20.0
    got = run(kind(source, target), chirp(source, seconds, 0.35 * low))
    expected = chirp(target, seconds, 0.35 * low)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 3e-3
    shifted = chirp(target, seconds, 0.35 * low, 0.1 / low)
    assert np.abs(got - shifted).max() > 0.1  # a tenth of a sample would be seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("source", "target"), RATES)
@pytest.mark.parametrize("samples", [0, 1, 2, 7, 1000])
def test_lengths_are_those_of_the_time(kind, source, target, samples):
    got = run(kind(source, target), np.ones((1, samples), np.float32))
    assert got.shape == (1, -(-samples * target // source))
    assert np.isfinite(got).all()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(data=st.data())
def test_chunks_make_no_difference(kind, data):
    source, target = data.draw(st.sampled_from(RATES[:6]))
    samples = np.random.default_rng(0).standard_normal((2, data.draw(st.integers(1, 3000)))).astype(np.float32)
    sizes = data.draw(st.lists(st.integers(1, 800), min_size=1, max_size=4))
    whole = run(kind(source, target, 2), samples)
    np.testing.assert_allclose(run(kind(source, target, 2), samples, sizes), whole, atol=1e-5)
    alone = run(kind(source, target), samples[1:])
    np.testing.assert_allclose(alone[0], whole[1], atol=1e-5)


@pytest.mark.parametrize(("source", "target"), [(48_000, 8000), (44_100, 8000), (8000, 16_000), (8000, 7999), (8000, 48_000)])
def test_the_live_filter_is_as_far_behind_as_it_says(source, target):
    resampler, got = LiveResampler(source, target), 0
    for pushed in range(1, 3 * resampler.delay + 200):
        got += resampler.push(np.ones((1, 1), np.float32)).shape[1]
        assert 0 <= pushed - got * source / target <= resampler.delay + source / target
    assert resampler.delay / source < 0.0047


@pytest.mark.parametrize(("source", "target"), [(48_000, 8000), (44_100, 8000), (8000, 44_100)])
def test_the_live_filter_lets_no_alias_through(source, target):
    """80 dB between 0.55 and 0.45 of the lower rate, and constants to the last bit."""
    assert np.abs(run(LiveResampler(source, target), np.ones((1, 3 * source), np.float32))[0, 500:-500] - 1).max() < 1e-6
    at = np.arange(source) / source
    for frequency, low, high in [(0.4, -0.1, 0.1), (0.55, -200, -75)]:
        if frequency * 8000 >= source / 2:
            continue
        wave = np.sin(2 * np.pi * frequency * 8000 * at).astype(np.float32)[None]
        middle = run(LiveResampler(source, target), wave)[0, target // 4 : target // 2]
        assert low <= 20 * np.log10(np.std(middle) * np.sqrt(2) + 1e-12) <= high


def test_files_get_soxrs_filter():
    samples = np.random.default_rng(0).standard_normal(44_100).astype(np.float32)
    np.testing.assert_array_equal(run(Resampler(44_100, 8000), samples[None], (999,))[0], soxr.resample(samples, 44_100, 8000))


def test_memory_does_not_grow():
    resampler = LiveResampler(44_100, 8000)
    for _ in range(50):
        resampler.push(np.ones((1, 4410), np.float32))
    assert resampler.buffer.shape[1] < 2 * resampler.delay + 10
