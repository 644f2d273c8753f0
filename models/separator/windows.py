"""A recording of any length through a network that wants it whole: in windows, in constant memory and linear time.

Neighbouring windows overlap. Over the overlap one fades into the other, with weights that sum to exactly one; the last window
ends where the recording ends. Before that the voices of the new window are put into the order of those so far:

1. by correlation in the overlap; where that is weak (both windows silent there, or in disagreement),
2. by a bridge: one more window over the middle of the two, which overlaps half of each; where that is weak too,
3. by all of it together with the spectra of the voices so far (``matching.Profiles``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from models.separator.matching import Profiles, Samples, Scores, best_order, correlation

Network = Callable[[Samples], Samples]
"""The voices (C, n) of one window (n,), in any order."""

STRONG = 0.2  # by how much of all energy the best order must beat the next
SILENT = 1e-5  # of the windows' mean power: less tells nothing


@dataclass(frozen=True)
class Layout:
    """How windows lie.

    Attributes:
        window: samples of each.
        overlap: samples that two share, at most half of the window.
        sample_rate: in Hz.
    """

    window: int
    overlap: int
    sample_rate: int

    @property
    def step(self) -> int:
        return self.window - self.overlap


@dataclass(frozen=True)
class Window:
    """One window: number of its first sample in the recording, its samples (n,) and their voices (C, n)."""

    start: int
    samples: Samples
    voices: Samples

    @property
    def stop(self) -> int:
        return self.start + len(self.samples)


def separate_windows(
    blocks: Iterable[Samples], network: Network, layout: Layout, sources: int, workers: int = 1
) -> Iterator[Samples]:
    """The voices of a recording, block by block.

    Args:
        blocks: the recording (n,), in blocks of any size, read only as far as needed.
        network: separates one window; called with ``layout.window`` samples, or with the whole of a shorter recording.
            With several workers it must be safe to call from as many threads.
        layout: of the windows.
        sources: C.
        workers: windows that are separated at the same time.

    Yields:
        Voices (C, m), final, in order; as many samples in all as the recording has.
    """
    joiner = Joiner(network, layout, sources)
    for window in _separated(_cut(blocks, layout), network, workers):
        yield joiner.add(window)
    yield joiner.rest()


class Joiner:
    """Puts windows in one order of voices and joins them."""

    def __init__(self, network: Network, layout: Layout, sources: int) -> None:
        self.network, self.layout, self.sources = network, layout, sources
        self.profiles = Profiles(sources, layout.sample_rate)
        self.last: Window | None = None
        self.given = 0
        rising = np.sin(np.pi / 2 * (np.arange(layout.overlap) + 0.5) / max(1, layout.overlap)) ** 2
        self.fade = np.float32(1) - (np.float32(1) - rising.astype(np.float32))  # so that this and 1 − this sum to one

    def add(self, window: Window) -> Samples:
        """The next window; returns the voices that are final with it."""
        last, self.last = self.last, window
        if last is None:
            self.profiles.add(window.voices)
            return np.zeros((self.sources, 0), np.float32)
        window = Window(window.start, window.samples, window.voices[self._order(last, window)])
        self.profiles.add(window.voices)
        self.last = window
        faded = last.stop - self.layout.overlap
        before = last.voices[:, self.given - last.start : faded - last.start]
        old, new = last.voices[:, faded - last.start :], window.voices[:, faded - window.start : last.stop - window.start]
        self.given = last.stop
        return np.concatenate([before, old + self.fade * (new - old)], axis=1)

    def rest(self) -> Samples:
        """The end of the last window."""
        if self.last is None:
            return np.zeros((self.sources, 0), np.float32)
        return self.last.voices[:, self.given - self.last.start :]

    def _order(self, last: Window, new: Window) -> list[int]:
        direct = self._evidence(last, new)
        order, margin = best_order(direct)
        if margin >= STRONG:
            return order
        evidence = direct
        bridge = self._bridge(last, new)
        if bridge is not None:
            first, second = self._evidence(last, bridge), self._evidence(bridge, new)
            there, strength = best_order(first)
            onward, other = best_order(second)
            if min(strength, other) >= STRONG:
                return [onward[middle] for middle in there]
            evidence = evidence + first @ second
        return best_order(evidence + self.profiles.scores(new.voices))[0]

    def _evidence(self, last: Window, new: Window) -> Scores:
        """Correlation of two windows' voices where they overlap; zeros where hardly anything is heard there."""
        start, stop = new.start, last.stop
        heard = last.samples[start - last.start :]
        power = max(_power(last.samples), _power(new.samples))
        if _power(heard) <= SILENT * power:
            return np.zeros((self.sources, self.sources))
        return correlation(last.voices[:, start - last.start :], new.voices[:, : stop - start])

    def _bridge(self, last: Window, new: Window) -> Window | None:
        """A window in the middle of the two; None where it could not tell more than they do."""
        ahead = (new.start - last.start) // 2
        following = new.samples[last.stop - new.start : len(new.samples) - (new.start - last.start - ahead)]
        samples = np.concatenate([last.samples[ahead:], following])
        quiet = SILENT * max(_power(last.samples), _power(new.samples))
        overlaps = last.samples[ahead:], new.samples[: len(samples) - (new.start - last.start - ahead)]
        if not ahead or min(_power(each) for each in overlaps) <= quiet:
            return None
        return Window(last.start + ahead, samples, self.network(samples))


def _power(samples: Samples) -> float:
    """Mean square, the mean itself taken off."""
    return float(np.var(samples, dtype=np.float64)) if len(samples) else 0.0


def _cut(blocks: Iterable[Samples], layout: Layout) -> Iterator[tuple[int, Samples]]:
    """Where each window begins, and its samples; holds no more than a window and what the source gives at once."""
    start, held = 0, np.zeros(0, np.float32)  # held: the recording from ``start`` on
    tail, cut = held, False  # tail: the last window's worth of what came before ``held``
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) > layout.window:  # more than one: then this is not the last
            yield start, held[: layout.window].copy()
            tail, cut = held[: layout.step].copy(), True
            start, held = start + layout.step, held[layout.step :]
        held = held.copy()
    if not cut:
        if len(held):
            yield 0, held
    else:
        missing = layout.window - len(held)
        yield start - missing, np.concatenate([tail[len(tail) - missing :], held])


def _separated(pieces: Iterable[tuple[int, Samples]], network: Network, workers: int) -> Iterator[Window]:
    """The windows in their order, ``workers`` of them at the same time."""
    if workers == 1:
        for start, samples in pieces:
            yield Window(start, samples, network(samples))
        return
    waiting: deque[tuple[int, Samples, Future[Samples]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for start, samples in pieces:
            waiting.append((start, samples, pool.submit(network, samples)))
            if len(waiting) > workers:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())


def _result(start: int, samples: Samples, voices: Future[Samples]) -> Window:
    return Window(start, samples, voices.result())
