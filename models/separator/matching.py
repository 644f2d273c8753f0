"""Which voice of one window is which of the next.

Two windows give their voices in orders of their own. Where they overlap they say the same, so voices are matched by
correlation there. Where that tells nothing (a pause), by the spectra of the voices so far.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from models.products import product

Samples = NDArray[np.float32]
Scores = NDArray[np.float64]  # (C, C): how much speaks for voice i so far being voice j of the new window

FRAME_SECONDS = 0.032
BANDS = 24
ACTIVE = 1e-3  # of the loudest frame's energy: quieter frames tell nothing of a voice
FLOOR = 1e-3  # of a frame's energy, added to its bands
LONGEST_MEMORY = 4000  # frames that a profile weighs


def best_order(scores: Scores) -> tuple[list[int], float]:
    """The order with the largest sum, ``order[i] = j``, and by how much it is larger than the next best."""
    sources = len(scores)
    orders = _orders(sources)
    sums = scores[np.arange(sources), orders].sum(axis=1)
    best = int(np.argmax(sums))
    others = np.delete(sums, best)
    return orders[best].tolist(), float(sums[best] - others.max()) if len(others) else np.inf


@lru_cache(8)
def _orders(sources: int) -> NDArray[np.int64]:
    return np.array(list(permutations(range(sources))), np.int64)


def correlation(before: Samples, after: Samples) -> Scores:
    """⟨before i, after j⟩ over both windows' energy, of all voices together: (C, n), (C, n) → (C, C).

    1 in sum where both windows say the same. A voice that is silent weighs nothing, however its remains correlate, so one
    voice that speaks is enough to tell two apart.
    """
    first, second = before.astype(np.float64), after.astype(np.float64)
    energy = np.sqrt(np.square(first).sum() * np.square(second).sum())
    scores: Scores = np.einsum("in,jn->ij", first, second)  # not by OpenBLAS: see models.products
    return scores / energy if energy > 0 else np.zeros_like(scores)


class Profiles:
    """The mean spectrum of each voice so far: log energies in mel bands, without its level."""

    def __init__(self, sources: int, sample_rate: int) -> None:
        self.frame = max(16, round(FRAME_SECONDS * sample_rate))
        self.filters = _mel(self.frame, sample_rate)
        self.means = np.zeros((sources, len(self.filters)))
        self.frames = np.zeros(sources)

    def add(self, voices: Samples) -> None:
        """Voices (C, n) of a window, in the order of the recording."""
        means, frames = self._measure(voices)
        total = np.maximum(self.frames + frames, 1)
        self.means = (self.means * self.frames[:, None] + means * frames[:, None]) / total[:, None]
        self.frames = np.minimum(self.frames + frames, LONGEST_MEMORY)

    def scores(self, voices: Samples) -> Scores:
        """How like each voice so far is to each of a new window, up to 1 in sum; 0 where either has not spoken."""
        means, frames = self._measure(voices)
        distance = np.square(self.means[:, None] - means[None]).mean(axis=2)
        known = (self.frames[:, None] > 0) & (frames[None] > 0)
        return np.where(known, np.exp(-0.5 * distance), 0.0) / len(voices)

    def _measure(self, voices: Samples) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean of the log band energies over the frames in which a voice speaks (C, bands), and how many they are (C)."""
        count = voices.shape[1] // self.frame
        if not count:
            return np.zeros_like(self.means), np.zeros(len(voices))
        frames = voices[:, : count * self.frame].reshape(len(voices), count, self.frame) * np.hanning(self.frame)
        power = np.square(np.abs(np.fft.rfft(frames)))
        bands = product(power.reshape(-1, power.shape[2]), self.filters.T).reshape(*power.shape[:2], -1)  # (C, count, bands)
        energy = bands.sum(axis=2, keepdims=True)
        logs = np.log(bands + FLOOR * energy + np.finfo(np.float64).tiny)
        logs -= logs.mean(axis=2, keepdims=True)
        active = energy > ACTIVE * energy.max()
        spoken = active.sum(axis=1)[:, 0].astype(np.float64)
        return (logs * active).sum(axis=1) / np.maximum(spoken, 1)[:, None], spoken


def _mel(frame: int, sample_rate: int) -> NDArray[np.float64]:
    """Triangles, evenly wide on the mel scale (2595 · log10(1 + f / 700)): (bands, frame / 2 + 1)."""
    frequencies = np.fft.rfftfreq(frame, 1 / sample_rate)
    edges = 700 * (10 ** (np.linspace(0, np.log10(1 + sample_rate / 1400), min(BANDS, frame // 4) + 2)) - 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((frequencies - low) / (middle - low), (high - frequencies) / (high - middle))
    return np.maximum(triangles, 0.0)
