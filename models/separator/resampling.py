"""Resampling of streams, aligned: sample 0 stays at time 0, and n samples become ceil(n · out / in).

``Resampler`` is soxr's, for files: the best filter, some 80 to 170 ms behind. ``LiveResampler`` is a short windowed sinc, for
live streams: some 4 ms behind, and what it takes off the top of the band (from 0.45 of the lower rate on) is in the mixture
still, so voices keep it (``levels.share``).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Protocol

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Samples = NDArray[np.float32]


class Resamples(Protocol):
    """What both are."""

    def push(self, samples: Samples) -> Samples:
        """The next samples (channels, n) → what is final now (channels, m)."""

    def flush(self) -> Samples:
        """The rest, and the end."""


class Same:
    """No resampling."""

    delay = 0

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def push(self, samples: Samples) -> Samples:
        return samples

    def flush(self) -> Samples:
        return np.zeros((self.channels, 0), np.float32)


class Resampler:
    """soxr's stream, high quality."""

    def __init__(self, source: int, target: int, channels: int = 1) -> None:
        self.source, self.target, self.channels = source, target, channels
        self.pushed = self.given = 0
        self._stream = soxr.ResampleStream(source, target, channels, dtype="float32", quality="HQ")

    def push(self, samples: Samples) -> Samples:
        self.pushed += samples.shape[1]
        return self._give(samples, last=False)

    def flush(self) -> Samples:
        total = -(-self.pushed * self.target // self.source)
        if not total:
            return np.zeros((self.channels, 0), np.float32)
        # soxr rounds the number of samples; a few zeros make it enough.
        zeros = np.zeros((self.channels, 2 + 2 * self.source // self.target), np.float32)
        before = self.given
        rest = np.concatenate([self._give(zeros, last=False), self._give(zeros[:, :0], last=True)], axis=1)
        return rest[:, : total - before]

    def _give(self, samples: Samples, last: bool) -> Samples:
        frames = np.ascontiguousarray(samples.T)
        given = self._stream.resample_chunk(frames if self.channels > 1 else frames[:, 0], last=last)
        self.given += len(given)
        return np.asarray(given, np.float32).reshape(-1, self.channels).T


HALF = 36  # samples of the lower rate to each side of the sinc
CUTOFF = 0.475  # of the lower rate: half the amplitude there
BETA = 8.0  # of the Kaiser window: 80 dB
FINE = 512  # points of the kernel between two samples of the lower rate; between them it is interpolated
LARGEST_TABLE = 2**20  # weights kept, for ratios of small numbers; others are computed as they come
TOGETHER = 2**18  # weights at once


@lru_cache(1)
def _kernel() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    at = np.arange(HALF * FINE + 1) / FINE
    window = np.i0(BETA * np.sqrt(1 - (at / HALF) ** 2)) / np.i0(BETA)
    return at, 2 * CUTOFF * np.sinc(2 * CUTOFF * at) * window


class LiveResampler:
    """A windowed sinc of few milliseconds.

    Attributes:
        delay: samples of the source rate by which what it returns is behind.
    """

    def __init__(self, source: int, target: int, channels: int = 1) -> None:
        divisor = math.gcd(source, target)
        self.step, self.phases = source // divisor, target // divisor  # output j is at input j · step / phases
        self.narrowing = min(1.0, target / source)
        self.delay = math.ceil(HALF / self.narrowing)
        self.channels = channels
        self.made = self.pushed = 0  # outputs, inputs
        self.first = 1 - self.delay  # input number of the buffer's first sample
        self.buffer = np.zeros((channels, self.delay - 1), np.float32)
        self.table = self._weights(np.arange(self.phases)) if self.phases * 2 * self.delay <= LARGEST_TABLE else None

    def push(self, samples: Samples) -> Samples:
        self.pushed += samples.shape[1]
        self.buffer = np.concatenate([self.buffer, samples], axis=1)
        # Output j needs the inputs up to floor(j · step / phases) + delay.
        known = self.pushed - self.delay
        return self._make(-(-known * self.phases // self.step) if known > 0 else 0)

    def flush(self) -> Samples:
        self.buffer = np.concatenate([self.buffer, np.zeros((self.channels, self.delay), np.float32)], axis=1)
        return self._make(-(-self.pushed * self.phases // self.step))

    def _make(self, until: int) -> Samples:
        taps, most = 2 * self.delay, max(1, TOGETHER // (2 * self.delay))
        parts = [np.zeros((self.channels, 0), np.float32)]
        while self.made < until:
            numbers = np.arange(self.made, min(until, self.made + most))
            at, phases = numbers * self.step // self.phases, numbers * self.step % self.phases
            weights = self._weights(phases) if self.table is None else self.table[phases]  # (J, taps)
            inputs = sliding_window_view(self.buffer, taps, axis=1)[:, at + 1 - self.delay - self.first]  # (channels, J, taps)
            parts.append(np.einsum("cjt,jt->cj", inputs, weights))
            self.made = int(numbers[-1]) + 1
        unused = self.made * self.step // self.phases + 1 - self.delay - self.first
        self.buffer, self.first = self.buffer[:, max(0, unused) :].copy(), self.first + max(0, unused)
        return np.concatenate(parts, axis=1)

    def _weights(self, phases: NDArray[np.int64]) -> Samples:
        """Weights of the inputs around an output that lies phase / phases after one: (J,) → (J, 2 · delay)."""
        places = np.arange(1 - self.delay, self.delay + 1)
        away = np.abs(places - phases[:, None] / self.phases) * self.narrowing
        weights = np.interp(away, *_kernel(), right=0.0)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)  # a constant stays what it is
