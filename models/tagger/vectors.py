"""Word vectors: a memory-mapped matrix and an index from words to its rows.

On disk a table is two files, `<name>.npy` (float16, float32 or int8, rows × dim) and `<name>.words.txt` (UTF-8, one word a
line). Where the numbers are int8, a third file `<name>.scale.npy` (float32, dim) says what 1 is worth in each dimension: the
quantisation is symmetric, scale = max |column| / 127, so a number is off by half its scale at most. The matrix is mapped, so
that worker processes share its pages. The index costs 16 bytes a word: words sorted by their CRC-32, and where each stands in
the file; every hit is compared with the word itself, so that equal checksums do no harm.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from models.errors import DataFormatError, InputError

Matrix = NDArray[np.float16] | NDArray[np.float32] | NDArray[np.int8]


@dataclass(frozen=True)
class Coverage:
    """How many words a table knows as they are, only in lower case, and not at all."""

    exact: int
    lower: int
    unknown: int

    @property
    def total(self) -> int:
        return self.exact + self.lower + self.unknown

    def __str__(self) -> str:
        total = max(self.total, 1)
        parts = {"exact": self.exact, "lower case": self.lower, "unknown": self.unknown}
        return f"{self.total} words: " + ", ".join(f"{name} {count / total:.2%}" for name, count in parts.items())


class VectorTable:
    """Words and their vectors.

    Args:
        words: one for each row, not empty, without line breaks; where a word stands twice its first row counts.
        matrix: (rows, dim), float16, float32 or int8. Read vectors through `vectors`, which knows of the scale.
        scale: (dim,), float32, finite and not negative; with int8 only, and needed there: a vector is its row times the scale.

    Raises:
        DataFormatError: they do not fit together, or a value is not finite.
    """

    def __init__(self, words: Iterable[str], matrix: Matrix, scale: NDArray[np.float32] | None = None) -> None:
        self._index(_encode_words(words), matrix, scale, "vectors")
        if not np.isfinite(matrix).all():
            raise DataFormatError("a vector has a value that is not finite", where="vectors", fix="Leave such words out")

    def _index(self, lines: bytes, matrix: Matrix, scale: NDArray[np.float32] | None, where: str) -> None:
        if matrix.ndim != 2 or matrix.dtype not in (np.float16, np.float32, np.int8):
            got = f"{matrix.dtype} with shape {matrix.shape}"
            raise DataFormatError(
                "not a table of vectors", where=where, expected="float16, float32 or int8, rows by dim", got=got
            )
        _check_scale(matrix, scale, where)
        self.matrix, self.scale = matrix, scale
        self._lines = lines
        words = lines.split(b"\n")[:-1]
        if len(words) != len(matrix):
            raise DataFormatError("words and vectors differ in number", where=where, expected=str(len(matrix)), got=len(words))
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        if not lengths.all():
            row = int(np.flatnonzero(lengths == 0)[0])
            raise DataFormatError("a word is empty", where=f"{where}, word {row + 1}", expected="a word a line")
        self._offsets = np.concatenate([[0], np.cumsum(lengths + 1)])
        hashes = np.fromiter(map(crc32, words), np.uint32, len(words))
        self._order = np.argsort(hashes, kind="stable").astype(np.int32)
        self._hashes = hashes[self._order]

    @classmethod
    def open(cls, path: str | Path) -> VectorTable:
        """Map a table that `save` wrote.

        Args:
            path: what was given to `save`, its array or list of words, or a folder that holds one table.

        Raises:
            InputError: there is none.
            DataFormatError: the files are damaged, or the scale of an int8 table is missing.
        """
        prefix = _prefix(Path(path))
        array_file, words_file = table_files(prefix)
        for file in (array_file, words_file):
            if not file.is_file():
                raise InputError("no table of vectors here", where=str(path), expected=f"{array_file.name}, {words_file.name}")
        lines = words_file.read_bytes()
        check_words(lines, words_file)
        matrix = map_array(array_file)
        scale = _map_scale(scale_file(prefix)) if matrix.dtype == np.int8 else None
        table = cls.__new__(cls)
        table._index(lines, matrix, scale, prefix.as_posix())
        return table

    def save(self, path: str | Path) -> Path:
        """Write `<path>.npy`, `<path>.words.txt`, for int8 `<path>.scale.npy`, each in full or not at all; returns the first."""
        prefix = strip_suffix(Path(path))
        array_file, words_file = table_files(prefix)
        array_file.parent.mkdir(parents=True, exist_ok=True)
        _write(words_file, lambda stream: stream.write(self._lines))
        if self.scale is not None:
            scale = np.asarray(self.scale)
            _write(scale_file(prefix), lambda stream: np.save(stream, scale, allow_pickle=False))
        _write(array_file, lambda stream: np.save(stream, np.asarray(self.matrix), allow_pickle=False))
        if self.scale is None:
            scale_file(prefix).unlink(missing_ok=True)  # of an int8 table that stood here before
        return array_file

    def head(self, count: int) -> VectorTable:
        """The first `count` rows as a table; files are sorted by frequency, so these are the most frequent words."""
        return VectorTable(self.words[:count], self.matrix[:count], self.scale)

    def quantised(self) -> VectorTable:
        """The same vectors as int8, a half or a quarter of the size; each number is off by half its dimension's scale at most.

        Raises:
            DataFormatError: a value is not finite.
        """
        if self.scale is not None:
            return self
        largest = np.abs(self.matrix).max(axis=0, initial=0).astype(np.float32)
        # Columns of zeros, and of numbers too small for a scale of full precision, get the smallest one that has it.
        scale = np.maximum(largest / np.float32(127), np.finfo(np.float32).tiny)
        _check_scale(np.empty((0, self.dim), np.int8), scale, "vectors")
        return VectorTable(self.words, np.clip(np.rint(self.matrix / scale), -127, 127).astype(np.int8), scale)

    def __len__(self) -> int:
        return len(self.matrix)

    @property
    def dim(self) -> int:
        return int(self.matrix.shape[1])

    @property
    def words(self) -> list[str]:
        """All words in the order of the rows (made anew on each call)."""
        return self._lines.decode("utf-8").split("\n")[:-1]

    def rows(self, words: Sequence[str]) -> NDArray[np.int64]:
        """The row of each word: as it is written, else of its lower case, else -1. int64[n]"""
        found = self._find([word.encode("utf-8", "surrogatepass") for word in words])
        missing = [index for index in np.flatnonzero(found < 0).tolist() if words[index].lower() != words[index]]
        if missing:
            found[missing] = self._find([words[index].lower().encode("utf-8", "surrogatepass") for index in missing])
        return found

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of rows as real numbers, whatever the table stores: float32[n, dim]; zeros for row -1, the unknown word."""
        found = np.zeros((len(rows), self.dim), np.float32)
        held = rows >= 0
        found[held] = self.matrix[rows[held]]
        if self.scale is not None:
            found *= self.scale
        return found

    def coverage(self, words: Sequence[str]) -> Coverage:
        """How the words are found; count each occurrence, or pass a set for distinct words."""
        distinct, counts = _count(words)
        exact = self._find([word.encode("utf-8", "surrogatepass") for word in distinct]) >= 0
        known = self.rows(distinct) >= 0
        return Coverage(int(counts[exact].sum()), int(counts[known & ~exact].sum()), int(counts[~known].sum()))

    def _find(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        found = np.full(len(keys), -1, np.int64)
        if not len(self) or not keys:
            return found
        hashes = np.fromiter(map(crc32, keys), np.uint32, len(keys))
        places = np.searchsorted(self._hashes, hashes)
        hits = np.flatnonzero(self._hashes[np.minimum(places, len(self) - 1)] == hashes)
        rows = self._order[places[hits]]
        starts, ends, lines = self._offsets[rows].tolist(), (self._offsets[rows + 1] - 1).tolist(), self._lines
        for index, row, start, end in zip(hits.tolist(), rows.tolist(), starts, ends, strict=True):
            same = lines[start:end] == keys[index]
            found[index] = row if same else self._search(keys[index], int(places[index]) + 1, int(hashes[index]))
        return found

    def _search(self, key: bytes, place: int, checksum: int) -> int:
        """Go on through the words of the same checksum."""
        while place < len(self) and self._hashes[place] == checksum:
            row = int(self._order[place])
            if self._lines[self._offsets[row] : self._offsets[row + 1] - 1] == key:
                return row
            place += 1
        return -1


def read_vectors(path: str | Path, format: str = "auto") -> VectorTable:
    """Read vectors that another program wrote: see `models.tagger.vector_formats.read_vectors`."""
    from models.tagger import vector_formats  # serving never reads them

    return vector_formats.read_vectors(path, format)


# ---- the files of a table ---------------------------------------------------------------------------------------------


def strip_suffix(path: Path) -> Path:
    """The path of a table without the ending of its array or list of words."""
    for suffix in (".words.txt", ".npy"):
        if path.name.endswith(suffix):
            return path.with_name(path.name.removesuffix(suffix))
    return path


def table_files(prefix: Path) -> tuple[Path, Path]:
    """The array and the list of words."""
    return prefix.with_name(prefix.name + ".npy"), prefix.with_name(prefix.name + ".words.txt")


def scale_file(prefix: Path) -> Path:
    """What 1 is worth in each dimension of an int8 table."""
    return prefix.with_name(prefix.name + ".scale.npy")


def _prefix(path: Path) -> Path:
    if not path.is_dir():
        return strip_suffix(path)
    tables = [file for file in sorted(path.glob("*.npy")) if table_files(strip_suffix(file))[1].is_file()]
    if len(tables) != 1:
        raise InputError("not one table of vectors in this folder", where=str(path), got=[file.name for file in tables])
    return strip_suffix(tables[0])


def map_array(file: Path) -> Matrix:
    """Map a .npy file; refuses pickles."""
    try:
        matrix: Matrix = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataFormatError("not an array file", where=file.as_posix(), expected="numpy's .npy", got=error) from None
    return matrix


def _map_scale(file: Path) -> NDArray[np.float32]:
    if not file.is_file():
        expected = "float32, a number for each dimension, beside the int8 array"
        fix = "Copy all files of the table, or make it again"
        raise DataFormatError("the scale of an int8 table is missing", where=file.as_posix(), expected=expected, fix=fix)
    scale: NDArray[np.float32] = np.asarray(map_array(file))  # its type is checked with its shape
    return scale


def _check_scale(matrix: Matrix, scale: NDArray[np.float32] | None, where: str) -> None:
    if matrix.dtype != np.int8:
        if scale is not None:
            raise DataFormatError("only int8 vectors have a scale", where=where, expected="no scale", got=matrix.dtype)
        return
    expected = f"float32 with shape ({matrix.shape[1]},), finite and not negative"
    if scale is None or scale.dtype != np.float32 or scale.shape != (matrix.shape[1],):
        got = None if scale is None else f"{scale.dtype} with shape {scale.shape}"
        raise DataFormatError("not the scale of these vectors", where=f"{where}, scale", expected=expected, got=got)
    if not (np.isfinite(scale) & (scale >= 0)).all():
        raise DataFormatError("a scale is not a finite number from 0 on", where=f"{where}, scale", expected=expected)


def check_words(lines: bytes, file: Path) -> None:
    """Refuse a list of words that is not UTF-8 or cut short, naming the line."""
    try:
        lines.decode("utf-8")
    except UnicodeDecodeError as error:
        line = lines.count(b"\n", 0, error.start) + 1
        raise DataFormatError("bytes that are not UTF-8", where=f"{file.as_posix()}:{line}", expected="UTF-8") from None
    if lines and not lines.endswith(b"\n"):
        raise DataFormatError("the file is cut short", where=file.as_posix(), expected="a line break at its end")


def _encode_words(words: Iterable[str]) -> bytes:
    lines = []
    for number, word in enumerate(words, start=1):
        if not word or "\n" in word:
            raise DataFormatError("not a word", where=f"word {number}", expected="a string without line breaks", got=repr(word))
        lines.append(word)
    try:
        return "".join(word + "\n" for word in lines).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataFormatError("a word is not valid Unicode", where="words", got=repr(error.object[error.start])) from None


def _write(file: Path, write: Callable[[IO[bytes]], object]) -> None:
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with partial.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _count(words: Iterable[str]) -> tuple[list[str], NDArray[np.int64]]:
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return list(counts), np.fromiter(counts.values(), np.int64, len(counts))
