"""Live separation: chunks in, chunks out, as far behind as one filter of the network is long.

A causal bundle's ``network.onnx`` is one step: samples of K frames and the state go in, voices that are final and the state
after them come out. All that a stream knows of its past is that state, of constant size; it is the same arithmetic as
one pass over the whole recording, so it gives the same voices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.runtime import Runtime
from models.separator.levels import LEVEL, RunningMean, Samples, mono, share
from models.separator.resampling import LiveResampler, Same
from models.separator.settings import SeparatorPreprocessing

SIZES = (128, 4, 1)  # frames of a step that the network is compiled for, besides those of a usual chunk
CHUNK_SECONDS = 0.02  # the usual chunk: one step for it costs half of what two do


class StepNetwork:
    """The exported step of a causal network. Safe to share between streams and threads: it keeps no state itself."""

    def __init__(self, path: Path, settings: SeparatorPreprocessing, differences: Mapping[str, float | None]) -> None:
        self.hop, self.overlap = settings.hop, settings.length - settings.hop
        self.runtime = Runtime(path, differences)
        self.names = [name for name in self.runtime.inputs if name != "samples"]
        self.shapes = {name: self.runtime.fixed[name] for name in self.names}
        self.sizes = sorted({*SIZES, max(1, round(CHUNK_SECONDS * settings.sample_rate / self.hop))}, reverse=True)
        lengths = (frames * self.hop + self.overlap for frames in self.sizes)
        self.runtime.prepare_each({"samples": (1, length), **self.shapes} for length in lengths)

    def initial_state(self) -> dict[str, NDArray[Any]]:
        """State before the first frame."""
        return {name: np.zeros(shape, np.float32) for name, shape in self.shapes.items()}

    def advance(self, samples: Samples, state: dict[str, NDArray[Any]]) -> tuple[Samples, dict[str, NDArray[Any]]]:
        """Samples (K·hop + L − hop), K from ``sizes`` → voices (C, K·hop), and the state after them."""
        results = self.runtime.run({"samples": samples[None], **state})
        return results["voices"][0], {name: results[f"new_{name}"] for name in self.names}


class Stream:
    """One live recording coming apart. For one thread at a time.

    For any chunks, what ``push`` and ``flush`` return, joined, are the voices that ``Separator.separate`` gives.

    Example:
        >>> stream = Separator.load("pretrained/separator-2speakers-causal").stream(16000)
        >>> voices = [stream.push(chunk) for chunk in microphone]
        >>> voices.append(stream.flush())
    """

    def __init__(self, network: StepNetwork, settings: SeparatorPreprocessing, sample_rate: int) -> None:
        self.network, self.settings, self.sample_rate = network, settings, sample_rate
        self._begin()

    def _begin(self) -> None:
        """Before the first sample."""
        rate, target = self.sample_rate, self.settings.sample_rate
        sources = len(self.settings.sources)
        self._down = LiveResampler(rate, target) if rate != target else Same(1)
        self._up = LiveResampler(target, rate, sources) if rate != target else Same(sources)
        self._mean = RunningMean(target)
        self._state = self.network.initial_state()
        self._samples = np.zeros(self.settings.lead, np.float32)  # that still wait for their frame, at the network's level
        self._mixture: Samples = np.zeros(0, np.float32)  # that still wait for their voices
        self._skip = self.settings.lead  # voices still to come that belong to the zeros before the recording
        self._pushed: int = 0  # samples, at the stream's rate
        self._taken: int = 0  # samples, at the network's

    @property
    def delay_samples(self) -> int:
        """Samples, at most, by which what ``push`` has returned is behind what it was given: L at the network's rate, and
        the two filters of resampling at any other.
        """
        own = self.settings.length + self._up.delay
        return math.ceil(own * self.sample_rate / self.settings.sample_rate) + self._down.delay

    @property
    def delay_seconds(self) -> float:
        return self.delay_samples / self.sample_rate

    @property
    def state_bytes(self) -> int:
        """Memory that the stream holds between two chunks."""
        arrays = [*self._state.values(), self._samples, self._mixture]
        arrays += [each.buffer for each in (self._down, self._up) if isinstance(each, LiveResampler)]
        return sum(array.nbytes for array in arrays)

    def push(self, chunk: NDArray[np.floating]) -> Samples:
        """The next samples, and all samples of the voices that are final now.

        Args:
            chunk: (n,) or (n, channels), any n from 0, ±1 is full scale; channels are mixed down to their mean.

        Returns:
            Voices (sources, m), float32, at the stream's sample rate; they add up to the mixture.

        Raises:
            AudioSamplesError: a sample is not a number, or the shape is wrong. The chunk is not taken, and the stream can go on.
        """
        samples = mono(chunk, self._pushed, "the stream")
        self._pushed += len(samples)
        self._mixture = np.concatenate([self._mixture, samples])
        voices = self._advance(self._down.push(samples[None])[0])
        return self._add_up(self._up.push(voices))

    def flush(self) -> Samples:
        """The rest of the voices, up to the last sample pushed; then the stream begins anew."""
        head = self._advance(self._down.flush()[0])
        voices = np.concatenate([head, self._finish()], axis=1)
        rest = np.concatenate([self._up.push(voices), self._up.flush()], axis=1)[:, : len(self._mixture)]
        rest = self._add_up(rest)
        self._begin()
        return rest

    def _advance(self, samples: Samples) -> Samples:
        """Samples at the network's rate → voices (sources, m) that are final, their mean taken off."""
        self._taken += len(samples)
        return self._run(self._mean.remove(samples) * LEVEL)

    def _run(self, samples: Samples) -> Samples:
        """As many frames as there are, in as few steps as possible."""
        self._samples = np.concatenate([self._samples, samples])
        hop, overlap = self.network.hop, self.network.overlap
        parts = [np.zeros((len(self.settings.sources), 0), np.float32)]
        while (frames := (len(self._samples) - overlap) // hop) > 0:
            size = next(size for size in self.network.sizes if size <= frames)
            voices, self._state = self.network.advance(self._samples[: size * hop + overlap], self._state)
            self._samples = self._samples[size * hop :]
            parts.append(voices[:, self._skip :])
            self._skip -= min(self._skip, voices.shape[1])
        return np.concatenate(parts, axis=1) / LEVEL

    def _finish(self) -> Samples:
        """Frames of zeros until every sample has all of its own, as ``ConvTasNet.pad`` puts them."""
        s = self.settings
        if not self._taken:
            return np.zeros((len(s.sources), 0), np.float32)
        length = max(self._taken + 2 * s.lead, s.length)
        length += -(length - s.length) % s.hop
        voices = self._run(np.zeros(length - s.lead - self._taken, np.float32))
        open_end = self._state.get("overlap")  # without zeros before and after, the last samples lie in fewer frames
        return voices if open_end is None else np.concatenate([voices, open_end[0] / LEVEL], axis=1)

    def _add_up(self, voices: Samples) -> Samples:
        share(voices, self._mixture[: voices.shape[1]])
        self._mixture = self._mixture[voices.shape[1] :].copy()
        return voices
