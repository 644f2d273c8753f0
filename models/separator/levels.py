"""Levels: what goes into the network, and how voices that add up to the mixture come out of it.

Networks here are scale-invariant but for the eps in their norms. So samples go in multiplied by a constant power of two, at
which that eps means nothing, and voices come out divided by it: gain in is gain out, to the last bit but rounding, with
nothing measured that a stream could not know yet.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.errors import AudioSamplesError

Samples = NDArray[np.float32]

LEVEL = np.float32(2.0**20)
"""Sound is a million times as loud for the network: squares of samples from 1e-8 to 1e6 are far from eps and from infinity."""

LOUDEST = 1e6
"""Samples over this are refused: recordings are within ±1, and squares of such numbers would leave float32."""

MEMORY_SECONDS = 1.0  # in which a stream forgets the mean


def mono(samples: NDArray[np.floating], first: int = 0, where: str = "samples") -> Samples:
    """The mean of the channels, as float32: (n,) or (n, channels) → (n,).

    Args:
        samples: ±1 is full scale.
        first: number of the first sample, for messages.
        where: what messages call the recording.

    Raises:
        AudioSamplesError: a sample is NaN, infinite or over ``LOUDEST``; the message says which.
    """
    if samples.ndim not in (1, 2):
        raise AudioSamplesError(
            "not a chunk of sound", where=where, expected="(samples,) or (samples, channels)", got=samples.shape
        )
    if samples.ndim == 2 and not samples.shape[1]:
        raise AudioSamplesError("no channels", where=where, expected="at least one", got=samples.shape)
    if not (np.abs(samples).max() if samples.size else 0.0) <= LOUDEST:
        raise _bad_sample(samples, first, where)
    if samples.ndim == 1:
        return np.asarray(samples, np.float32)
    if samples.shape[1] == 1:
        return np.asarray(samples[:, 0], np.float32)
    return np.asarray(samples.mean(axis=1, dtype=np.float64), np.float32)


def _bad_sample(samples: NDArray[np.floating], first: int, where: str) -> AudioSamplesError:
    bad = np.argwhere(~(np.abs(samples) <= LOUDEST))[0]
    return AudioSamplesError(
        "not a sample of sound",
        where=f"{where}: sample {first + int(bad[0])}",
        expected=f"numbers within ±1 (at most ±{LOUDEST:g})",
        got=samples[tuple(bad)],
        fix="Export the recording again from the program that wrote it.",
    )


def share(voices: Samples, mixture: Samples) -> Samples:
    """Add to each voice its equal share of what all of them miss of the mixture: (C, n), (n,) → (C, n), in place.

    So the mean and what lies above the network's band are in all voices alike, and voices add up to the mixture.
    """
    voices += (mixture - voices.sum(axis=0)) / np.float32(len(voices))
    return voices


class RunningMean:
    """The mean of a stream so far, forgetting with a time constant of ``MEMORY_SECONDS``: what is taken off as DC.

    The first samples weigh as in a plain mean, so a constant is gone from its first sample on. Which chunks the samples
    came in makes no difference.
    """

    LONGEST = 4096  # samples summed at once, so that the powers below stay small

    def __init__(self, sample_rate: int) -> None:
        self.decay = np.exp(-1.0 / (MEMORY_SECONDS * sample_rate))
        self.sum, self.weight = 0.0, 0.0

    def remove(self, samples: Samples) -> Samples:
        """Samples (n,) less the mean so far at each."""
        result = np.empty_like(samples)
        for start in range(0, len(samples), self.LONGEST):
            result[start : start + self.LONGEST] = self._remove(samples[start : start + self.LONGEST])
        return result

    def _remove(self, samples: Samples) -> Samples:
        powers = self.decay ** np.arange(1, len(samples) + 1)
        sums = powers * (self.sum + np.cumsum(samples / powers))
        weights = powers * (self.weight + np.cumsum(1.0 / powers))
        self.sum, self.weight = float(sums[-1]), float(weights[-1])
        return np.asarray(samples - sums / weights, np.float32)
