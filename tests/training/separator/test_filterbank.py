from __future__ import annotations

import pytest
import torch

from models.errors import ConfigError
from training.separator.filterbank import gammatones, synthesis


@pytest.mark.parametrize(("count", "length"), [(512, 16), (256, 40), (64, 64)])
def test_filters_have_norm_1_and_come_with_their_negatives(count, length):
    filters = gammatones(count, length, 8000)
    assert filters.shape == (length, count)
    assert torch.allclose(filters.norm(dim=0), torch.ones(count))
    assert torch.equal(filters[:, count // 2 :], -filters[:, : count // 2])


def test_centre_frequencies_run_from_100_hz_to_half_the_rate_one_erb_apart():
    """24 of them at 8 kHz, the paper's number, by the formula of Glasberg and Moore: ERB number = 21.4·log10(1 + 0.00437·f)."""
    long = gammatones(2 * 24, 8000, 8000)[:, :24]  # a second of each: the spectrum shows its frequency to 1 Hz
    peaks = torch.fft.rfft(long, dim=0).abs().argmax(0).double()
    erbs = 21.4 * torch.log10(1 + 0.00437 * peaks)
    assert peaks[0] == pytest.approx(100, abs=5)
    assert peaks[-1] < 4000
    assert torch.allclose(erbs.diff(), erbs.diff().mean(), atol=0.15)
    assert erbs.diff().mean() == pytest.approx(1.0, abs=0.05)


def test_phases_of_a_frequency_are_spread_over_half_a_turn():
    filters = gammatones(8 * 24, 400, 8000)  # four phases of each frequency
    correlation = filters[:, 40:44].T @ filters[:, 40:44]
    assert correlation[0, 2] == pytest.approx(0, abs=0.05)  # a quarter turn
    assert correlation[0, 1] == pytest.approx(2**-0.5, abs=0.05)  # an eighth
    assert correlation[0, 3] == pytest.approx(-(2**-0.5), abs=0.05)


def test_an_odd_number_of_filters_has_no_pairs():
    with pytest.raises(ConfigError, match=r"filters.*even.*33"):
        gammatones(33, 16, 8000)


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize(("count", "length", "hop", "least"), [(512, 16, 8, 100.0), (256, 40, 20, 10.0)])
def test_an_encoder_and_its_synthesis_give_speech_back(count, length, hop, least, rectified):
    """SNR in dB on a sum of partials in the range of speech, where frames overlap fully."""
    time = torch.arange(4000) / 8000
    signal = sum(torch.sin(2 * torch.pi * frequency * time + frequency) for frequency in (150, 450, 1100, 2300, 3200))
    filters = gammatones(count, length, 8000)
    encoded = signal.unfold(0, length, hop) @ filters
    frames = (torch.relu(encoded) if rectified else encoded) @ synthesis(filters, hop, rectified)
    again = torch.zeros(hop * (len(frames) - 1) + length)
    for number, frame in enumerate(frames):
        again[number * hop : number * hop + length] += frame
    inner = slice(length, len(again) - length)
    error = signal[: len(again)][inner] - again[inner]
    assert 10 * torch.log10(signal[inner].square().mean() / error.square().mean()) > least
