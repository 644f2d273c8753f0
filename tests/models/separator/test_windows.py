from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.separator.matching import Profiles, best_order, correlation
from models.separator.windows import Joiner, Layout, separate_windows

RATE = 8000


class Known:
    """A network that knows the answer: the first voice is whole numbers up to 499, the second is whole thousands; the order
    in which it gives them is random from window to window.
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.lengths: list[int] = []

    def __call__(self, samples):
        self.lengths.append(len(samples))
        second = 1000 * np.rint(samples / 1000)
        return np.stack([samples - second, second])[self.random.permutation(2)].astype(np.float32)


def speech(samples: int, seed: int, pauses: list[tuple[int, int, int]] = ()) -> np.ndarray:
    """Two voices (2, samples): noise and slow waves, with pauses (voice, from, to)."""
    random = np.random.default_rng(seed)
    hiss = random.integers(-499, 500, samples)
    steps = 1000 * np.rint(np.sin(np.arange(samples) * random.uniform(0.02, 0.06)) * 1.2)
    voices = np.stack([hiss, steps]).astype(np.float32)
    for voice, start, stop in pauses:
        voices[voice, start:stop] = 0
    return voices


def separate(mixture, network, layout, block, workers=1):
    blocks = (mixture[start : start + block] for start in range(0, len(mixture), block))
    return np.concatenate(list(separate_windows(blocks, network, layout, 2, workers)), axis=1)


def same(got, voices):
    return any(np.array_equal(got, voices[list(order)]) for order in permutations(range(len(voices))))


@settings(max_examples=150)
@given(st.data())
def test_joined_windows_are_the_voices_whatever_the_windows_and_blocks(data):
    window = data.draw(st.integers(300, 2000))
    layout = Layout(window, data.draw(st.integers(20, window // 2)), RATE)
    samples = data.draw(st.integers(0, 9000))
    voices = speech(samples, data.draw(st.integers(0, 99)))
    block, workers = data.draw(st.integers(1, 3000)), data.draw(st.sampled_from([1, 3]))
    network = Known(0)
    got = separate(voices.sum(0), network, layout, block, workers)
    assert got.shape == voices.shape
    assert same(got, voices)
    assert set(network.lengths) <= ({window} if samples > window else {samples})


@settings(max_examples=100)
@given(st.data())
def test_pauses_do_not_swap_voices(data):
    """Pauses of one voice or both, of any length short of a window, wherever they fall."""
    layout = Layout(4000, data.draw(st.integers(0, 2000)), RATE)
    seeds = st.integers(0, 99)
    pause = st.tuples(st.integers(0, 1), st.integers(1000, 20_000), st.integers(0, 2500))
    both = st.tuples(st.integers(2000, 20_000), st.integers(0, 1500))
    pauses = [(voice, start, start + length) for voice, start, length in data.draw(st.lists(pause, max_size=3))]
    for start, length in data.draw(st.lists(both, max_size=3)):
        pauses += [(0, start, start + length), (1, start, start + length)]
    voices = speech(24_000, data.draw(seeds), pauses)
    assert same(separate(voices.sum(0), Known(data.draw(seeds)), layout, 5000), voices)


def test_after_a_silence_longer_than_windows_voices_are_told_by_their_spectra():
    layout = Layout(4000, 500, RATE)
    for seed in range(20):
        voices = speech(60_000, seed, [(0, 20_000, 40_000), (1, 20_000, 40_000)])
        assert same(separate(voices.sum(0), Known(seed), layout, 8000), voices)


def test_without_overlap_a_bridge_matches():
    voices = speech(20_000, 1)
    network = Known(2)
    assert same(separate(voices.sum(0), network, Layout(4000, 0, RATE), 20_000), voices)
    assert len(network.lengths) == 5 + 4


def test_a_single_voice_costs_no_bridges():
    voices = speech(30_000, 1, [(0, 0, 30_000)])
    network = Known(2)
    layout = Layout(4000, 500, RATE)
    assert same(separate(voices.sum(0), network, layout, 20_000), voices)
    assert len(network.lengths) == 1 + -(-(30_000 - 4000) // layout.step)


def test_silence_is_silence():
    got = separate(np.zeros(20_000, np.float32), Known(0), Layout(4000, 500, RATE), 999)
    assert not got.any()
    assert got.shape == (2, 20_000)


@pytest.mark.parametrize("overlap", [0, 1, 2, 333, 2000])
def test_weights_of_two_windows_sum_to_exactly_one(overlap):
    fade = Joiner(Known(0), Layout(4000, overlap, RATE), 2).fade
    assert fade.shape == (overlap,)
    assert ((np.float32(1) - fade) + fade == 1).all()
    assert (np.diff(fade) > 0).all()


def test_reading_does_not_run_ahead():
    """What is held is a window and a block for each worker, however long the recording."""
    read = []

    def blocks():
        for _ in range(200):
            read.append(1000)
            yield speech(1000, 1).sum(0)

    given_out = 0
    for voices in separate_windows(blocks(), Known(0), Layout(4000, 500, RATE), 2, workers=2):
        given_out += voices.shape[1]
        if len(read) < 200:
            assert sum(read) - given_out <= 6 * 4000
    assert given_out == 200_000


def test_a_failing_network_is_heard_of():
    def broken(samples):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(separate_windows([np.ones(9000, np.float32)], broken, Layout(4000, 500, RATE), 2, workers=2))


@given(st.integers(1, 5), st.integers(0, 1000))
def test_the_best_order_is_the_best(sources, seed):
    scores = np.random.default_rng(seed).standard_normal((sources, sources))
    order, margin = best_order(scores)
    sums = sorted(sum(scores[i, j] for i, j in enumerate(each)) for each in permutations(range(sources)))
    assert sum(scores[i, j] for i, j in enumerate(order)) == pytest.approx(sums[-1])
    assert margin == pytest.approx(sums[-1] - sums[-2]) if sources > 1 else np.isinf(margin)


def test_one_loud_voice_outweighs_how_the_remains_of_the_other_correlate():
    random = np.random.default_rng(0)
    voice = random.standard_normal(1000).astype(np.float32)
    before, after = np.stack([voice, 0.05 * voice]), np.stack([-0.02 * voice, voice])
    order, margin = best_order(correlation(before, after))
    assert order == [1, 0]
    assert margin > 0.8


def test_profiles_do_not_depend_on_levels():
    voices = speech(16_000, 3)
    profiles = Profiles(2, RATE)
    profiles.add(voices)
    order, margin = best_order(profiles.scores(1e-4 * voices[::-1]))
    assert (order, margin > 0.3) == ([1, 0], True)
    assert not Profiles(2, RATE).scores(voices).any()
    assert not profiles.scores(np.zeros((2, 4000), np.float32)).any()
