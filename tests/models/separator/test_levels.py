from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import AudioSamplesError
from models.separator.levels import MEMORY_SECONDS, RunningMean, mono, share


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_channels_become_their_mean():
    stereo = noise(100, 2)
    np.testing.assert_allclose(mono(stereo), stereo.mean(axis=1), atol=1e-7)
    np.testing.assert_array_equal(mono(stereo[:, :1]), stereo[:, 0])
    np.testing.assert_array_equal(mono(stereo[:, 0].astype(np.float64)), stereo[:, 0])
    assert mono(np.zeros((0, 2))).shape == (0,)


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (np.array([0, np.nan]), "here: sample 8: not a sample of sound: expected numbers within ±1 (at most ±1e+06), got nan"),
        (np.array([[0, 0], [0, 0], [np.inf, 0]], np.float32), "sample 9"),
        (np.array([2e6]), "got 2000000.0"),
        (np.zeros((1, 2, 3)), "expected (samples,) or (samples, channels), got (1, 2, 3)"),
        (np.zeros((3, 0)), "no channels"),
        (np.float32(1), "got ()"),
    ],
)
def test_what_is_no_sound_is_refused(samples, says):
    with pytest.raises(AudioSamplesError) as caught:
        mono(samples, 7, "here")
    assert says in str(caught.value)


@given(st.integers(1, 4), st.integers(0, 50))
def test_shares_make_voices_add_up(sources, samples):
    voices, mixture = noise(sources, samples), noise(samples, seed=1)
    missing = mixture - voices.sum(0)
    shared = share(voices.copy(), mixture)
    np.testing.assert_allclose(shared.sum(0), mixture, atol=1e-5)
    np.testing.assert_allclose(shared - voices, np.tile(missing / sources, (sources, 1)), atol=1e-5)


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=5), st.sampled_from([100, 8000, 48_000]))
def test_the_running_mean_is_the_weighted_mean_so_far(sizes, rate):
    samples = noise(sum(sizes)) + np.float32(0.5)
    running = RunningMean(rate)
    parts = np.split(samples, np.cumsum(sizes)[:-1])
    got = np.concatenate([running.remove(part) for part in parts])
    decay, total, weight, expected = np.exp(-1 / (MEMORY_SECONDS * rate)), 0.0, 0.0, []
    for sample in samples.tolist():
        total, weight = decay * total + sample, decay * weight + 1
        expected.append(sample - total / weight)
    np.testing.assert_allclose(got, np.array(expected, np.float32).reshape(-1), atol=1e-5)


def test_a_constant_is_gone_from_the_first_sample_on():
    assert np.abs(RunningMean(8000).remove(np.full(20_000, 0.3, np.float32))).max() < 1e-6
