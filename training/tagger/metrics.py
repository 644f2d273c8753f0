"""Figures of a tagger, with numpy alone.

Precision = correct / predicted, recall = correct / gold, F1 = their harmonic mean; each is 0 where its denominator is.
*Micro* adds up the counts of all types, *macro* is the mean over types that occur in gold or prediction.
All are shares between 0 and 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.errors import InputError
from models.tagger.labels import Scheme, spans

Place = tuple[int, int]
"""[start, end) in the text."""


@dataclass(frozen=True)
class Scores:
    """Counts of one type, and what follows from them."""

    correct: int
    predicted: int
    gold: int

    @property
    def precision(self) -> float:
        return _ratio(self.correct, self.predicted)

    @property
    def recall(self) -> float:
        return _ratio(self.correct, self.gold)

    @property
    def f1(self) -> float:
        return _ratio(2 * self.correct, self.predicted + self.gold)

    def as_dict(self) -> dict[str, float | int]:
        """For JSON."""
        rates = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return {**rates, "correct": self.correct, "predicted": self.predicted, "gold": self.gold}


@dataclass(frozen=True)
class Report:
    """Scores for each type, sorted by name."""

    types: dict[str, Scores] = field(default_factory=dict)

    @property
    def micro(self) -> Scores:
        columns = [(each.correct, each.predicted, each.gold) for each in self.types.values()]
        return Scores(*(sum(column) for column in zip(*columns, strict=True))) if columns else Scores(0, 0, 0)

    @property
    def macro(self) -> dict[str, float]:
        """Means of precision, recall and F1 over the types."""
        names = ("precision", "recall", "f1")
        return {name: _ratio(sum(getattr(each, name) for each in self.types.values()), len(self.types)) for name in names}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        types = {name: scores.as_dict() for name, scores in self.types.items()}
        return {"micro": self.micro.as_dict(), "macro": self.macro, "types": types}


@dataclass(frozen=True)
class Calibration:
    """How far confidences are from the share that is right.

    Attributes:
        error: expected calibration error, sum over bins of (count / total) · |accuracy - confidence|.
        edges: bins + 1 equal steps from 0 to 1; a bin holds its upper edge.
        counts: tokens in each bin; confidence and accuracy are their means, NaN in an empty bin.
    """

    error: float
    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the empty bins."""
        rows = zip(self.edges, self.edges[1:], self.counts, self.confidence, self.accuracy, strict=False)
        names = ("from", "to", "count", "confidence", "accuracy")
        bins = [dict(zip(names, (float(a), float(b), int(n), float(c), float(d)), strict=True)) for a, b, n, c, d in rows if n]
        return {"error": self.error, "bins": bins}


def accuracy(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Share of tokens whose label is right."""
    _same_length(gold, predicted)
    return _ratio(sum(a == b for a, b in zip(gold, predicted, strict=True)), len(gold))


def label_report(gold: Sequence[str], predicted: Sequence[str]) -> Report:
    """Scores for each label over tokens. All micro figures equal the accuracy."""
    _same_length(gold, predicted)
    right = Counter(a for a, b in zip(gold, predicted, strict=True) if a == b)
    return _report(right, Counter(predicted), Counter(gold))


def span_report(gold: Iterable[tuple[Any, ...]], predicted: Iterable[tuple[Any, ...]]) -> Report:
    """Scores for each type over spans (…, type): one is right where all of it, place and type, is in gold.

    Spans that stand twice (the words of a multiword token with one surface) count twice.
    """
    wanted, found = Counter(gold), Counter(predicted)
    return _report(_by_type(wanted & found), _by_type(found), _by_type(wanted))


def entity_report(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: Scheme | str) -> Report:
    """Entity-level, strict: spans that the labels of each sentence form, by the rules of the scheme.

    Agrees with seqeval's `mode="strict"` in IOB2 and BIOES (https://github.com/chakki-works/seqeval).
    """
    _same_length(gold, predicted)
    for left, right in zip(gold, predicted, strict=True):
        _same_length(left, right)
    return span_report(_numbered(gold, scheme), _numbered(predicted, scheme))


@dataclass(frozen=True)
class Segmentation:
    """Word segmentation.

    Attributes:
        words: a word is right where both its ends are (second SIGHAN bakeoff, Emerson 2005).
        joint: and its part of speech too.
        found: bool for each gold word in order, whether both its ends are right: recall of known and unknown words is the mean
            of this over either kind (the bakeoff's R_IV and R_OOV).
    """

    words: Scores
    joint: Report
    found: NDArray[np.bool_]


def segmentation_report(
    gold: Sequence[Sequence[tuple[int, int, str]]], predicted: Sequence[Sequence[tuple[int, int, str]]]
) -> Segmentation:
    """Words of each sentence as (start, end, part of speech) in characters of its text."""
    _same_length(gold, predicted)
    wanted = [(number, *word) for number, sentence in enumerate(gold) for word in sentence]
    found = [(number, *word) for number, sentence in enumerate(predicted) for word in sentence]
    places = span_report(((*word[:3], "") for word in wanted), ((*word[:3], "") for word in found))
    ends = {word[:3] for word in found}
    return Segmentation(places.micro, span_report(wanted, found), np.array([word[:3] in ends for word in wanted], bool))


def token_places(gold: Sequence[Sequence[Place]], predicted: Sequence[Sequence[Place]]) -> Scores:
    """Tokenisation: a token is right where both its ends are (CoNLL 2018 shared task)."""
    left, right = ([[(*place, "") for place in each] for each in sentences] for sentences in (gold, predicted))
    return segmentation_report(left, right).words


def share_right(right: ArrayLike, chosen: ArrayLike) -> dict[str, float | int]:
    """Accuracy over the chosen ones alone: {"count", "accuracy"}; for known against unknown words."""
    right, chosen = np.asarray(right, bool), np.asarray(chosen, bool)
    _same_length(right, chosen)
    count = int(chosen.sum())
    return {"count": count, "accuracy": _ratio(int((right & chosen).sum()), count)}


def calibration(confidences: ArrayLike, right: ArrayLike, bins: int = 15) -> Calibration:
    """Expected calibration error with equal bins, as in Guo et al. 2017 (https://arxiv.org/abs/1706.04599).

    Args:
        confidences: float[n] between 0 and 1, of the label that was chosen.
        right: bool[n], whether it was right.
    """
    confidences, right = np.asarray(confidences, np.float64), np.asarray(right, bool)
    _same_length(confidences, right)
    if bins < 1 or not ((confidences >= 0) & (confidences <= 1 + 1e-6)).all():
        raise InputError("cannot be binned", where="calibration", expected="at least one bin, and confidences between 0 and 1")
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):  # an empty bin has no mean
        mean = np.bincount(index, weights=confidences, minlength=bins) / counts
        share = np.bincount(index, weights=right, minlength=bins) / counts
    filled = counts > 0
    gaps = np.abs(share[filled] - mean[filled]) * counts[filled]
    return Calibration(_ratio(float(gaps.sum()), len(confidences)), edges, counts, mean, share)


def confusion(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
    """int64[K, K]: how often gold label i (row) was predicted as label j (column).

    Raises:
        InputError: a label is not among `labels`.
    """
    _same_length(gold, predicted)
    number = {label: index for index, label in enumerate(labels)}
    if missing := (set(gold) | set(predicted)) - set(number):
        raise InputError("labels outside the table", where="confusion", expected=", ".join(labels), got=sorted(missing))
    rows = np.fromiter((number[label] for label in gold), np.int64, len(gold))
    columns = np.fromiter((number[label] for label in predicted), np.int64, len(predicted))
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return counts


def _numbered(sentences: Sequence[Sequence[str]], scheme: Scheme | str) -> list[tuple[int, int, int, str]]:
    return [(number, *span) for number, labels in enumerate(sentences) for span in spans(labels, scheme)]


def _by_type(counts: Counter[tuple[Any, ...]]) -> Counter[str]:
    types: Counter[str] = Counter()
    for span, count in counts.items():
        types[span[-1]] += count
    return types


def _report(right: Counter[str], predicted: Counter[str], gold: Counter[str]) -> Report:
    names = sorted(set(predicted) | set(gold))
    return Report({name: Scores(right[name], predicted[name], gold[name]) for name in names})


def _same_length(left: Any, right: Any) -> None:
    if len(left) != len(right):
        raise InputError("gold and prediction differ in length", expected=str(len(left)), got=len(right))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
