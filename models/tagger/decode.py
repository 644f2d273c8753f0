"""Labels and confidences from scores, in numpy.

Confidences are probabilities of the model: with a CRF the exact marginals by forward–backward (Rabiner 1989), with
softmax the softmax itself. The recursion runs over positions, each step vectorised over the sentences of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.products import product

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
TINY = 1e-300
FORBIDDEN = -5.0e3  # moves of lower scores are forbidden ones
NEVER = np.float32(-1e30)  # stands for them where the best labelling is searched: no score makes up for it


@dataclass(frozen=True)
class Transitions:
    """Scores of a CRF: start (K), moves (K, K), end (K); forbidden moves hold a large negative number."""

    start: Floats
    moves: Floats
    end: Floats

    @classmethod
    def from_array(cls, packed: Floats) -> Transitions:
        """From rows (K + 2, K): start, moves, end."""
        return cls(packed[0], packed[1:-1], packed[-1])


@dataclass(frozen=True)
class Decoded:
    """Best labels of a batch, and how sure the model is of them.

    Attributes:
        labels: (B, T) int64, zeros beyond the length.
        confidences: (B, T), p(label at t | sentence).
        first, last: (B, T), such that exp(last[j] − first[i]) is the probability of all labels from i to j together.
    """

    labels: Integers
    confidences: Floats
    first: Doubles
    last: Doubles

    def span_confidence(self, sentence: int, start: int, stop: int) -> float:
        """Probability that the labels of tokens ``start`` to ``stop`` (not included) are all right."""
        return float(min(1.0, np.exp(self.last[sentence, stop - 1] - self.first[sentence, start])))


def decode(scores: Floats, lengths: Integers, transitions: Transitions | None) -> Decoded:
    """Best labels and their probabilities.

    Args:
        scores: (B, T, K); positions beyond a sentence's length are not read.
        lengths: (B), each at least 1.
        transitions: of the CRF, or None for softmax.
    """
    inside = np.arange(scores.shape[1]) < lengths[:, None]
    if transitions is None:
        labels = scores.argmax(axis=2) * inside
        confidences = inside / np.exp(scores - scores.max(axis=2, keepdims=True)).sum(axis=2, dtype=np.float64)
        last = np.cumsum(np.log(np.maximum(confidences, TINY)), axis=1)
        first = np.concatenate([np.zeros((len(scores), 1)), last[:, :-1]], axis=1)
        return Decoded(labels, confidences.astype(np.float32), first, last)
    labels = viterbi(scores, lengths, transitions)
    lattice = forward_backward(scores, lengths, transitions)
    confidences = _along(lattice.marginals, labels) * inside
    # p(y_i … y_j) = α̂_i(y_i) · Π_{i<t≤j} A(y_{t−1}, y_t) w_t(y_t) / c_t · β̂_j(y_j), with α̂_j β̂_j the marginal at j.
    step = transitions.moves[labels[:, :-1], labels[:, 1:]] + np.log(np.maximum(_along(lattice.weights, labels)[:, 1:], TINY))
    walked = np.zeros(labels.shape)
    np.cumsum(step - np.log(lattice.scales[:, 1:]), axis=1, out=walked[:, 1:])
    alpha = np.log(np.maximum(_along(lattice.forward, labels), TINY))
    return Decoded(labels, confidences.astype(np.float32), walked - alpha, walked - alpha + np.log(np.maximum(confidences, TINY)))


def viterbi(scores: Floats, lengths: Integers, transitions: Transitions) -> Integers:
    """Labelling of the highest score of each sentence (Viterbi 1967): (B, T), with zeros beyond the length."""
    batch, time, count = scores.shape
    start, moves, end = (
        np.where(each < FORBIDDEN, NEVER, each) for each in (transitions.start, transitions.moves, transitions.end)
    )
    arrivals = np.ascontiguousarray(moves.T)  # [to, from]: the maximum then runs along memory
    best = start + scores[:, 0]
    origins = np.empty((time, batch, count), np.uint16)
    for t in range(1, time):
        active = lengths > t
        reached = best[active, None, :] + arrivals  # (active, to, from)
        origin = reached.argmax(axis=2)
        origins[t, active] = origin
        best[active] = np.take_along_axis(reached, origin[:, :, None], axis=2)[:, :, 0] + scores[active, t]
    labels = np.zeros((batch, time), np.int64)
    everyone = np.arange(batch)
    current = (best + end).argmax(axis=1)
    labels[everyone, lengths - 1] = current
    for t in range(time - 1, 0, -1):
        active = lengths > t
        current = np.where(active, origins[t, everyone, current * active], current)
        labels[active, t - 1] = current[active]
    return labels


@dataclass(frozen=True)
class Lattice:
    """Forward–backward quantities: weights, forward and marginals (B, T, K), scales (B, T) of the forward steps."""

    weights: Doubles
    forward: Doubles
    scales: Doubles
    marginals: Doubles


def forward_backward(scores: Floats, lengths: Integers, transitions: Transitions) -> Lattice:
    """Exact p(label at t | sentence), scaled at each position so that nothing under- or overflows.

    In double precision: a label that is e⁻²⁰⁰ times as likely so far may be the only one that the rest allows.
    """
    time = scores.shape[1]
    step, start, end = (np.exp(np.asarray(each, np.float64)) for each in (transitions.moves, transitions.start, transitions.end))
    weights = np.exp(np.subtract(scores, scores.max(axis=2, keepdims=True), dtype=np.float64))
    forward, scales = np.empty_like(weights), np.empty(weights.shape[:2], weights.dtype)
    alpha, scales[:, 0] = _scaled(start * weights[:, 0])
    forward[:, 0] = alpha
    for t in range(1, time):
        alpha, scales[:, t] = _scaled(product(alpha, step) * weights[:, t])
        forward[:, t] = alpha
    marginals = np.empty_like(weights)
    beta = np.broadcast_to(end, alpha.shape)
    for t in range(time - 1, -1, -1):
        marginals[:, t], _ = _scaled(forward[:, t] * beta)
        # Within the sentence beta moves one step back; at or beyond its last position it stays that of the end.
        back, _ = _scaled(product(beta * weights[:, t], step.T))
        beta = np.where((lengths > t)[:, None], back, end)
    return Lattice(weights, forward, scales, marginals)


def marginals(scores: Floats, lengths: Integers, transitions: Transitions) -> Doubles:
    """p(label at t | sentence) under the CRF: (B, T, K)."""
    return forward_backward(scores, lengths, transitions).marginals


def _along(values: Doubles, labels: Integers) -> Doubles:
    return np.take_along_axis(values, labels[:, :, None], axis=2)[:, :, 0]


def _scaled(rows: Doubles) -> tuple[Doubles, Doubles]:
    total = np.maximum(rows.sum(axis=1), TINY)
    return rows / total[:, None], total
