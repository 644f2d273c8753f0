"""A CRF by enumeration of all labellings: slow, and plainly right."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

FORBIDDEN = -1.0e4


@dataclass
class Case:
    """Scores (B, T, K) with lengths (B), and transitions with their masks."""

    scores: np.ndarray
    lengths: np.ndarray
    start: np.ndarray
    moves: np.ndarray
    end: np.ndarray
    allowed: tuple[np.ndarray, np.ndarray, np.ndarray]

    @property
    def mask(self) -> np.ndarray:
        return np.arange(self.scores.shape[1]) < self.lengths[:, None]

    def masked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Transitions as a bundle holds them."""
        pairs = zip((self.start, self.moves, self.end), self.allowed, strict=True)
        return tuple((values + np.where(mask, 0, FORBIDDEN)).astype(np.float32) for values, mask in pairs)

    def score(self, sentence: int, labels: tuple[int, ...]) -> float:
        """S(labels), or −inf where a move is forbidden."""
        start, moves, end = (
            np.where(mask, values, -np.inf).astype(np.float64)
            for values, mask in zip((self.start, self.moves, self.end), self.allowed, strict=True)
        )
        total = start[labels[0]] + end[labels[-1]]
        total += sum(float(self.scores[sentence, t, label]) for t, label in enumerate(labels))
        return float(total + sum(moves[left, right] for left, right in itertools.pairwise(labels)))

    def labellings(self, sentence: int) -> tuple[list[tuple[int, ...]], np.ndarray]:
        """Every labelling of a sentence, and its score."""
        every = list(itertools.product(range(self.scores.shape[2]), repeat=int(self.lengths[sentence])))
        return every, np.array([self.score(sentence, labels) for labels in every])

    def log_partition(self, sentence: int) -> float:
        scores = self.labellings(sentence)[1]
        return float(np.logaddexp.reduce(scores))

    def probability(self, sentence: int, wanted: dict[int, int]) -> float:
        """Probability that the labels at the named positions are the wanted ones."""
        every, scores = self.labellings(sentence)
        fits = np.array([all(labels[t] == label for t, label in wanted.items()) for labels in every])
        if not np.isfinite(scores[fits]).any():
            return 0.0
        return float(np.exp(np.logaddexp.reduce(scores[fits]) - np.logaddexp.reduce(scores)))


def random_case(seed: int, scale: float = 2.0, forbid: float = 0.3, batch: int = 3, longest: int = 5) -> Case:
    """At least one labelling is allowed in each sentence: that of label 0 throughout."""
    random = np.random.default_rng(seed)
    count, time = int(random.integers(1, 5)), int(random.integers(1, longest + 1))
    lengths = random.integers(1, time + 1, batch)
    lengths[0] = time
    allowed = tuple(random.random(shape) >= forbid for shape in ((count,), (count, count), (count,)))
    for mask in allowed:
        mask.reshape(-1)[0] = True

    def draw(*shape: int) -> np.ndarray:
        return random.uniform(-scale, scale, shape).astype(np.float32)

    return Case(draw(batch, time, count), lengths, draw(count), draw(count, count), draw(count), allowed)
