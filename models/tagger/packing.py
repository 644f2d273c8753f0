"""Runs sentences through the network side by side in one long row.

Sentences stand one after the other with a gap of zeros between them that no single convolution reaches across, which is
what the ends of a sentence look like to it anyway: the scores are those of each sentence alone, and there is no padding
to the longest. A row has one of a few lengths, so that the runtime meets few shapes. A sentence longer than a row is cut
into parts that overlap by the receptive field; the scores near a cut are dropped, the others are those of the whole.

What depends on a word alone is computed when the word is met and remembered, for a bounded number of words.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import BundleError
from models.runtime import Runtime
from models.tagger.features import Type, TypeEncoder, TypeMemory
from models.tagger.vectors import VectorTable

ROWS = (32, 128, 512)  # lengths of a row; longer ones leave the processor's cache and are slower by the token
WORDS = (32, 256, 1024)  # distinct words encoded at once
REMEMBERED = 20_000  # words; at 256 channels about 20 MB

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Part:
    """Tokens start … stop of a sentence are run; the scores of keep_start … keep_stop are kept."""

    sentence: int
    start: int
    stop: int
    keep_start: int
    keep_stop: int


class Packer:
    """Scores of sentences. Safe to use from several threads.

    Args:
        words: network of the words: vectors (U, D), letters (U, L) → words (U, H).
        context: network of the sentences: words (1, N, H), inside (1, N) → scores (1, N, K).
        encoder: of types.
        tables: the vector table behind each column of the encoder's rows.
        receptive_field: tokens on each side that a score depends on.
        gap: empty places between two sentences.
    """

    def __init__(
        self,
        words: Runtime,
        context: Runtime,
        encoder: TypeEncoder,
        tables: Sequence[VectorTable],
        receptive_field: int,
        gap: int,
    ) -> None:
        self.words, self.context, self.encoder, self.tables = words, context, encoder, list(tables)
        # Where a sentence is cut, types near the cut lack their neighbours or a word of the lexicon: those are dropped too.
        self.halo, self.gap = receptive_field + encoder.reach, gap
        self.longest = ROWS[-1] - 2 * self.halo
        if self.longest < 1:
            got = f"{receptive_field} on each side"
            raise BundleError(
                "the network looks too far", where="receptive_field", expected=f"less than {ROWS[-1] // 2}", got=got
            )
        self._memory = TypeMemory(encoder, self._encode, REMEMBERED)
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(context.streams, thread_name_prefix="tagger")
        self._warm_up()

    def scores(self, sentences: Sequence[Sequence[str]]) -> list[Floats]:
        """(tokens, K) for each sentence; they do not depend on the other sentences."""
        results = [np.empty((len(sentence), 0), np.float32) for sentence in sentences]
        rows = list(self._fill(_parts([len(sentence) for sentence in sentences], self.longest, self.halo)))
        cut = ([sentences[part.sentence][part.start : part.stop] for part in parts] for parts in rows)
        for parts, row in zip(rows, self._pool.map(self._row, cut) if len(rows) > 1 else map(self._row, cut), strict=True):
            start = 0
            for part in parts:
                if not results[part.sentence].shape[1]:
                    results[part.sentence] = np.empty((len(sentences[part.sentence]), row.shape[1]), np.float32)
                kept = slice(start + part.keep_start - part.start, start + part.keep_stop - part.start)
                results[part.sentence][part.keep_start : part.keep_stop] = row[kept]
                start += part.stop - part.start + self.gap
        return results

    def _fill(self, parts: Iterable[_Part]) -> Iterator[list[_Part]]:
        """Parts that share a row."""
        row: list[_Part] = []
        used = 0
        for part in parts:
            length = part.stop - part.start
            if row and used + length > ROWS[-1]:
                yield row
                row, used = [], 0
            row.append(part)
            used += length + self.gap
        if row:
            yield row

    def _row(self, sentences: Sequence[Sequence[str]]) -> Floats:
        """Scores of one row of sentences: (N, K)."""
        used = sum(map(len, sentences)) + self.gap * (len(sentences) - 1)
        length = _at_least(ROWS, used)
        with self._lock:  # numbers hold until the memory is asked again
            places = np.zeros(length, np.int64)
            start = 0
            for numbers in self._memory.number(sentences):
                places[start : start + len(numbers)] = numbers
                start += len(numbers) + self.gap
            words: Floats = self._memory.arrays[0][places]
        inside = (places != 0).astype(np.float32)
        scores: Floats = self.context.run({"words": words[None], "inside": inside[None]})["scores"]
        first: Floats = scores[0]
        return first

    def _encode(self, types: Sequence[Type]) -> list[Floats]:
        """[words (n, H)] of new types."""
        rows, letters = self.encoder.encode(types)
        vectors = self._vectors(rows)
        done = []
        for start in range(0, len(types), WORDS[-1]):
            stop = min(start + WORDS[-1], len(types))
            size = _at_least(WORDS, stop - start)
            arrays = {"vectors": _padded(vectors[start:stop], size), "letters": _padded(letters[start:stop], size)}
            done.append(self.words.run({name: arrays[name] for name in self.words.inputs})["words"][: stop - start])
        return [np.concatenate(done)]

    def _vectors(self, rows: NDArray[np.int64]) -> Floats:
        """(n, D): the tables' vectors side by side, zeros where a table does not hold the word."""
        vectors = np.zeros((len(rows), sum(table.dim for table in self.tables)), np.float32)
        start = 0
        for column, table in enumerate(self.tables):
            held = np.flatnonzero(rows[:, column] >= 0)
            vectors[held, start : start + table.dim] = table.vectors(rows[held, column])
            start += table.dim
        return vectors

    def _warm_up(self) -> None:
        """Compile and run every shape once."""
        width = sum(table.dim for table in self.tables)
        for size in WORDS:
            shapes = {"vectors": (size, width), "letters": (size, self.encoder.longest)}
            self.words.prepare({name: shapes[name] for name in self.words.inputs})
        channels = self._encode([("", "", "", "")])[0].shape[1]
        for length in ROWS:
            self.context.prepare({"words": (1, length, channels), "inside": (1, length)})


def _parts(lengths: Sequence[int], longest: int, halo: int) -> Iterator[_Part]:
    for sentence, length in enumerate(lengths):
        if length <= longest + 2 * halo:
            if length:
                yield _Part(sentence, 0, length, 0, length)
            continue
        for keep in range(0, length, longest):
            keep_stop = min(keep + longest, length)
            yield _Part(sentence, max(0, keep - halo), min(length, keep_stop + halo), keep, keep_stop)


def _at_least(sizes: Sequence[int], needed: int) -> int:
    return next(size for size in sizes if size >= needed)


def _padded(rows: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    padded = np.zeros((size, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return padded
