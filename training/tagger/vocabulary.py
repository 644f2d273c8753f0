"""What a tagger knows: its labels, letters, and the words of its vector tables."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.tagger.features import EDGE, Rows, TypeEncoder, View
from models.tagger.lexicon import Lexicon


@dataclass(frozen=True)
class Table:
    """A vector table's words; its vectors are in the network's state."""

    name: str
    views: list[View]
    words: list[str]
    dimensions: int
    trainable: bool


class WordRows:
    """Row numbers by exact, then lower-cased word; −1 where there is none."""

    def __init__(self, words: Sequence[str]) -> None:
        self._rows = {word: row for row, word in reversed(list(enumerate(words)))}

    def rows(self, words: Sequence[str]) -> NDArray[np.int64]:
        get = self._rows.get
        found = (row if (row := get(word, -1)) >= 0 else get(word.lower(), -1) for word in words)
        return np.fromiter(found, np.int64, len(words))


@dataclass(frozen=True)
class Vocabulary:
    """Everything that is counted on the training data and must stay the same afterwards.

    Attributes:
        labels: label set → its labels, in the order of the network's outputs.
        alphabet: letters of the letter CNN, or None.
        longest_spelling: letters read of a word.
        tables: vector tables in the order in which their vectors are concatenated.
        known: distinct words of the training text, for known-against-unknown figures.
        lexicon: words for the view ``lexicon``; empty without it.
    """

    labels: dict[str, list[str]]
    alphabet: str | None
    longest_spelling: int
    tables: list[Table]
    known: list[str]
    lexicon: list[str] = field(default_factory=list)

    @cached_property
    def label_ids(self) -> dict[str, dict[str, int]]:
        return {name: {label: number for number, label in enumerate(labels)} for name, labels in self.labels.items()}

    @property
    def width(self) -> int:
        return sum(table.dimensions * len(table.views) for table in self.tables)

    def encoder(self) -> TypeEncoder:
        views = views_of([(table.views, WordRows(table.words)) for table in self.tables])
        return TypeEncoder(views, self.alphabet, self.longest_spelling, Lexicon(self.lexicon) if self.lexicon else None)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Vocabulary:
        return cls(**{**content, "tables": [Table(**table) for table in content["tables"]]})


def count_letters(sentences: Iterable[Sequence[str]], minimum: int) -> str:
    """Letters that stand at least ``minimum`` times in the sentences, in order of their code points."""
    counts = Counter(letter for sentence in sentences for token in sentence for letter in token)
    return "".join(sorted(letter for letter, count in counts.items() if count >= minimum))


def views_of(tables: Iterable[tuple[Sequence[View], Rows]]) -> list[tuple[View, Rows]]:
    """One pair for each view of each table, in the order in which the network concatenates vectors."""
    return [(view, table) for views, table in tables for view in views]


def count_views(
    sentences: Iterable[Sequence[str]], views: Sequence[View], minimum: int, lexicon: Lexicon | None = None
) -> list[str]:
    """Strings that the views give on the sentences, most frequent first."""
    counts: Counter[str] = Counter()
    for sentence in sentences:
        if "word" in views:
            counts.update(sentence)
        if "left_bigram" in views or "right_bigram" in views:
            counts.update(first + second for first, second in itertools.pairwise([EDGE, *sentence, EDGE]))
        if "lexicon" in views and lexicon is not None:
            counts.update(lexicon.codes(sentence))
    return [word for word, count in counts.most_common() if count >= minimum]
