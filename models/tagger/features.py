"""From tokens to the arrays the network reads, the same for training and for inference.

A *view* says which string of a token's neighbourhood a vector table is asked for: the token itself, or for Chinese the
pair of characters with its left or right neighbour, or the code of what a lexicon holds around it. Everything the network
must know of a token apart from its place is its *type*: the token, with bigram views also its left and right neighbour,
with a lexicon also its code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError
from models.tagger.lexicon import Lexicon

View = Literal["word", "left_bigram", "right_bigram", "lexicon"]
# Left neighbour, token, right neighbour, code of the lexicon; empty where no view looks at them.
Type = tuple[str, str, str, str]
Array = NDArray[Any]

EDGE = "\x02"  # stands beyond both ends of a sentence
TAKEN_AT_ONCE = 1 << 17  # types
FIRST_LETTER_ID = 2  # 0 is padding, 1 a letter never seen in training


class Rows(Protocol):
    """What is asked of a vector table: row numbers of words, −1 for a word it does not hold."""

    def rows(self, words: Sequence[str]) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class Encoded:
    """Distinct types of a batch and where they stand.

    Attributes:
        rows: (U, tables) int64, row in each vector table, −1 unknown; row 0 of U is padding.
        letters: (U, L) int64 letter ids, 0 padding.
        index: (B, T) int64, 0 padding.
    """

    rows: NDArray[np.int64]
    letters: NDArray[np.int64]
    index: NDArray[np.int64]


class TypeEncoder:
    """Encodes types one by one: rows in the tables, ids of the letters.

    Args:
        tables: (view, table) in the order in which the network concatenates their vectors.
        alphabet: letter ``alphabet[i]`` has id ``i + 2``; None when the network has no letter CNN.
        longest: L; a longer word keeps its first L − L//3 and last L//3 letters.
        lexicon: what the view ``lexicon`` looks words up in.

    Raises:
        ConfigError: there is the view ``lexicon`` but no lexicon.
    """

    def __init__(
        self, tables: Sequence[tuple[View, Rows]], alphabet: str | None, longest: int = 16, lexicon: Lexicon | None = None
    ) -> None:
        self.tables = list(tables)
        views = {view for view, _ in self.tables}
        if "lexicon" in views and lexicon is None:
            raise ConfigError("a table has the view 'lexicon', but there is no lexicon", where="tables", fix="Name a lexicon.")
        self.neighbours = not views.isdisjoint({"left_bigram", "right_bigram"})
        self.lexicon = lexicon if "lexicon" in views else None
        self.reach = max(
            int(self.neighbours), self.lexicon.reach if self.lexicon else 0
        )  # tokens to each side that a type depends on
        self.longest = longest if alphabet is not None else 1
        self._ids = {letter: number for number, letter in enumerate(alphabet or "", FIRST_LETTER_ID)}

    def types(self, tokens: Sequence[str]) -> Sequence[Type]:
        """The type of each token; it depends on ``reach`` tokens to each side."""
        nothing = [""] * len(tokens)
        padded = [EDGE, *tokens, EDGE]
        left, right = (padded[:-2], padded[2:]) if self.neighbours else (nothing, nothing)
        codes = self.lexicon.codes(tokens) if self.lexicon else nothing
        return list(zip(left, tokens, right, codes, strict=True))

    def encode(self, types: Sequence[Type]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(rows (n, tables), letters (n, L)) of the given types."""
        rows = np.empty((len(types), len(self.tables)), np.int64)
        for column, (view, table) in enumerate(self.tables):
            rows[:, column] = table.rows([_seen(view, kind) for kind in types])
        return rows, self._letters([word for _, word, _, _ in types])

    def _letters(self, words: Sequence[str]) -> NDArray[np.int64]:
        letters = np.zeros((len(words), self.longest), np.int64)
        tail = self.longest // 3
        for number, word in enumerate(words):
            if len(word) > self.longest:
                word = word[: self.longest - tail] + word[-tail:] if tail else word[: self.longest]
            letters[number, : len(word)] = [self._ids.get(letter, 1) for letter in word]
        return letters


class TypeMemory:
    """Numbers types as they are met, from 1, and keeps what was computed of each; number 0 is padding and holds zeros.

    Args:
        encoder: says what a token's type is.
        compute: new types → arrays with one row for each.
        capacity: types kept; when full, everything is forgotten, so that memory stays bounded.
    """

    def __init__(self, encoder: TypeEncoder, compute: Callable[[Sequence[Type]], Sequence[Array]], capacity: int) -> None:
        self._encoder, self._compute, self._capacity = encoder, compute, capacity
        self._numbers: dict[Type, int] = {}
        self.arrays: list[Array] = []

    def number(self, sentences: Iterable[Sequence[str]]) -> list[NDArray[np.int64]]:
        """Numbers of all tokens' types. They hold until the next call."""
        kinds = [self._encoder.types(sentence) for sentence in sentences]
        if len(self._numbers) + sum(map(len, kinds)) > self._capacity:
            self._numbers = {}
        numbers = self._numbers
        new = list(dict.fromkeys(kind for sentence in kinds for kind in sentence if kind not in numbers))
        if new:
            self._learn(new)
        return [np.fromiter(map(numbers.__getitem__, sentence), np.int64, len(sentence)) for sentence in kinds]

    def _learn(self, new: Sequence[Type]) -> None:
        start = len(self._numbers) + 1
        computed = self._compute(new)
        if not self.arrays:
            # All of a small memory is taken at once, so that a service does not grow while it meets words.
            room = self._capacity + 1 if self._capacity <= TAKEN_AT_ONCE else 1024
            self.arrays = [np.full((room, *array.shape[1:]), 0, array.dtype) for array in computed]
        for place, array in enumerate(computed):
            held = self.arrays[place]
            if start + len(array) > len(held):
                grown = np.zeros((max(start + len(array), 2 * len(held)), *held.shape[1:]), held.dtype)
                grown[:start] = held[:start]
                self.arrays[place] = held = grown
            held[start : start + len(array)] = array
        self._numbers.update(zip(new, range(start, start + len(new)), strict=True))


def batch(memory: TypeMemory, numbers: Sequence[NDArray[np.int64]], length: int) -> Encoded:
    """Put numbered sentences of at most ``length`` tokens into one padded batch; the memory holds (rows, letters)."""
    distinct, inverse = np.unique(np.concatenate([np.zeros(1, np.int64), *numbers]), return_inverse=True)
    index = np.zeros((len(numbers), length), np.int64)
    done = 1
    for row, sentence in zip(index, numbers, strict=True):
        row[: len(sentence)] = inverse[done : done + len(sentence)]
        done += len(sentence)
    rows, letters = (array[distinct] for array in memory.arrays)
    rows[0] = -1
    return Encoded(rows, letters, index)


def _seen(view: View, kind: Type) -> str:
    left, word, right, code = kind
    match view:
        case "word":
            return word
        case "left_bigram":
            return left + word
        case "right_bigram":
            return word + right
        case "lexicon":
            return code
