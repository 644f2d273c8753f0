"""Filters that the separator's encoder and decoder may begin with.

Ditter and Gerkmann 2020, "A Multi-Phase Gammatone Filterbank for Speech Separation via TasNet" (arXiv:1910.11615): impulse
responses of the ear's filters, several phases of each and each phase in both signs, which a rectifying encoder needs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.errors import ConfigError

LOWEST = 100.0  # Hz
ORDER = 2
CENTRES = 24  # filters of different frequency, one ERB apart


def gammatones(count: int, length: int, sample_rate: int) -> Tensor:
    """(length, count): the filters as columns of norm 1, ``count / 2`` of them followed by their negatives.

    Centre frequencies are spread evenly on the ERB scale from 100 Hz to half the sample rate, as many as the paper's 24 or,
    where there are fewer pairs of filters, those; low ones get the phases that are left over.

    Raises:
        ConfigError: an odd number of filters.
    """
    if count % 2:
        raise ConfigError("gammatones come in pairs of opposite sign", where="filters", expected="an even number", got=count)
    pairs = count // 2
    centres = min(CENTRES, pairs)
    scale = torch.linspace(_erb_scale(LOWEST), _erb_scale(sample_rate / 2), centres + 1, dtype=torch.float64)[:-1]
    time = torch.arange(1, length + 1, dtype=torch.float64) / sample_rate
    columns = []
    for number, frequency in enumerate((torch.exp(scale / 9.265) - 1) * 24.7 * 9.265):
        phases = pairs // centres + (number < pairs % centres)
        envelope = time ** (ORDER - 1) * torch.exp(-2 * math.pi * _bandwidth(float(frequency)) * time)
        columns += [envelope * torch.cos(2 * math.pi * frequency * time + math.pi * phase / phases) for phase in range(phases)]
    filters = torch.stack(columns, 1)
    filters = filters / filters.norm(dim=0)
    return torch.cat([filters, -filters], 1).float()


def synthesis(analysis: Tensor, hop: int, rectified: bool = True) -> Tensor:
    """(count, length): what makes overlapping frames of an ``analysis`` of pairs of opposite sign add up to the signal.

    Rectified f and −f differ by the frame's product with f, so the pseudo-inverse of the positive half, with both signs,
    returns the frame, but for the directions that the filters hardly see (below 5 % of the best seen one); length/hop frames
    overlap.
    """
    length, count = analysis.shape
    half = torch.linalg.pinv(analysis[:, : count // 2].double(), rtol=0.05) * (hop / length)
    half = half if rectified else half / 2  # f and −f then say the same twice
    return torch.cat([half, -half]).float()


def _erb_scale(frequency: float) -> float:
    return 9.265 * math.log(1 + frequency / (24.7 * 9.265))


def _bandwidth(frequency: float) -> float:
    """b of a gammatone whose equivalent rectangular bandwidth is the ear's."""
    erb = 24.7 + 0.108 * frequency
    ratio = math.pi * math.factorial(2 * ORDER - 2) * 2.0 ** -(2 * ORDER - 2) / math.factorial(ORDER - 1) ** 2
    return erb / ratio
