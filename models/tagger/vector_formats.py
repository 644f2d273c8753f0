"""Word vectors that other programs wrote: word2vec, GloVe, gensim, and arrays with a list of words beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError, DataFormatError, InputError
from models.tagger.vectors import VectorTable, check_words, map_array, strip_suffix, table_files

HEADER = re.compile(rb"\s*([0-9]+)\s+([0-9]+)\s*")
FORMATS = ("table", "word2vec", "word2vec-binary", "glove", "gensim")


def read_vectors(path: str | Path, format: str = "auto") -> VectorTable:
    """Read vectors that another program wrote.

    Args:
        path: a file, or a folder with one `.npy` and its list of words (`.words.txt`, `.txt` or `.parquet`).
        format: table (the `.npy` and its words; int8 becomes float32), word2vec (text), word2vec-binary, glove (text), gensim
            (KeyedVectors, or a model that has them; such files are pickles, which can run code: open only your own), auto.

    Raises:
        DataFormatError: a malformed file, named by line.
    """
    place = Path(path)
    if not place.exists() and not table_files(strip_suffix(place))[0].exists():
        raise InputError("no such file", where=str(path), expected="a file or folder of word vectors")
    if format == "auto":
        format = _guess(place)
    readers: dict[str, Callable[[Path], VectorTable]] = {
        "table": _read_table,
        "word2vec": _read_word2vec,
        "word2vec-binary": _read_binary,
        "glove": _read_glove,
        "gensim": _read_gensim,
    }
    if format not in readers:
        raise ConfigError("unknown format", where="format", expected=", ".join(["auto", *FORMATS]), got=format)
    return readers[format](place)


def _guess(path: Path) -> str:
    if path.is_dir() or path.suffix == ".npy" or not path.exists():
        return "table"
    by_suffix = {".kv": "gensim", ".model": "gensim", ".bin": "word2vec-binary", ".wordvectors": "gensim"}
    if path.suffix in by_suffix:
        return by_suffix[path.suffix]
    with path.open("rb") as stream:
        header = HEADER.fullmatch(stream.readline(100))
        if header is None:
            return "glove"
        row = stream.readline(1 << 20)
    return "word2vec" if _is_text_row(row, int(header[2])) else "word2vec-binary"


def _is_text_row(row: bytes, dim: int) -> bool:
    try:
        values = row.decode("utf-8").rstrip().rsplit(" ", dim)[1:]
        return len(values) == dim and all(np.isfinite(float(value)) for value in values)
    except ValueError:
        return False


def _read_word2vec(path: Path) -> VectorTable:
    with path.open("rb") as stream:
        count, dim = _header(path, stream.readline())
        return _text_rows(path, stream, dim, first_line=2, count=count)


def _read_glove(path: Path) -> VectorTable:
    with path.open("rb") as stream:
        first = stream.readline()
        dim = len(first.rstrip().split(b" ")) - 1
        stream.seek(0)
        if dim < 1:
            raise DataFormatError("not a row of vectors", where=f"{path.as_posix()}:1", expected="a word and its numbers")
        return _text_rows(path, stream, dim, first_line=1, count=None)


def _header(path: Path, line: bytes) -> tuple[int, int]:
    header = HEADER.fullmatch(line)
    if header is None or int(header[2]) < 1:
        raise DataFormatError(
            "not a word2vec header", where=f"{path.as_posix()}:1", expected="two numbers: words and dim", got=line
        )
    return int(header[1]), int(header[2])


def _text_rows(path: Path, lines: Iterable[bytes], dim: int, first_line: int, count: int | None) -> VectorTable:
    words: list[str] = []
    vectors: list[NDArray[np.float32]] = []
    for number, line in enumerate(lines, start=first_line):
        # Words may hold spaces (GloVe 840B has ". . ."), numbers do not: the last dim fields are the numbers.
        word, *values = line.rstrip(b" \r\n").rsplit(b" ", dim)
        try:
            words.append(word.decode("utf-8"))
            vectors.append(np.array(values, dtype=np.float32))
        except ValueError as error:
            got = error if isinstance(error, UnicodeDecodeError) else line.decode("utf-8", "replace")
            raise _bad_row(path, number, dim, got) from None
        if len(values) != dim or not word or not np.isfinite(vectors[-1]).all():
            raise _bad_row(path, number, dim, line.decode("utf-8", "replace"))
    if count is not None and count != len(words):
        raise DataFormatError("the header and the rows differ", where=path.as_posix(), expected=f"{count} words", got=len(words))
    return VectorTable(words, np.stack(vectors) if vectors else np.empty((0, dim), np.float32))


def _bad_row(path: Path, number: int, dim: int, got: object) -> DataFormatError:
    expected = f"a word in UTF-8 and {dim} finite numbers, with spaces between"
    return DataFormatError("not a row of vectors", where=f"{path.as_posix()}:{number}", expected=expected, got=got)


def _read_binary(path: Path) -> VectorTable:
    data = path.read_bytes()
    head = data.partition(b"\n")[0] + b"\n"
    count, dim = _header(path, head)
    matrix = np.empty((min(count, len(data) // (4 * dim)), dim), np.float32)
    words, position = [], len(head)
    for row in range(count):
        space = data.find(b" ", position)
        end = space + 1 + 4 * dim
        if space < 0 or end > len(data):
            raise DataFormatError("the file is cut short", where=path.as_posix(), expected=f"{count} words", got=row)
        matrix[row] = np.frombuffer(data, "<f4", dim, space + 1)
        try:
            words.append(data[position:space].lstrip(b"\n").decode("utf-8"))  # some writers end a row with a line break
        except UnicodeDecodeError:
            raise DataFormatError("a word is not UTF-8", where=f"{path.as_posix()}, word {row + 1}", expected="UTF-8") from None
        position = end
    return VectorTable(words, matrix)


def _read_gensim(path: Path) -> VectorTable:
    try:
        from gensim.models import KeyedVectors
    except ImportError:
        fix = 'Install the training extra: pip install -e ".[train]"'
        raise ConfigError("gensim is not installed", where=path.as_posix(), fix=fix) from None
    loaded = KeyedVectors.load(str(path))
    keyed = getattr(loaded, "wv", loaded)
    return VectorTable(keyed.index_to_key, np.asarray(keyed.vectors, dtype=np.float32))


def _read_table(path: Path) -> VectorTable:
    array_file = _array_file(path)
    if table_files(strip_suffix(array_file))[1].is_file():
        table = VectorTable.open(array_file)
        return table if table.scale is None else VectorTable(table.words, table.vectors(np.arange(len(table))))
    words_file = _words_file(array_file)
    words = _parquet_words(words_file) if words_file.suffix == ".parquet" else list(_lines(words_file))
    matrix = map_array(array_file)
    return VectorTable(words, matrix if matrix.dtype == np.float16 else np.asarray(matrix, dtype=np.float32))


def _array_file(path: Path) -> Path:
    if not path.is_dir():
        return path if path.suffix == ".npy" else table_files(strip_suffix(path))[0]
    arrays = [file for file in sorted(path.glob("*.npy")) if not file.name.endswith(".scale.npy")]
    if len(arrays) != 1:
        raise InputError("not one array in this folder", where=str(path), expected="one .npy", got=[file.name for file in arrays])
    return arrays[0]


def _words_file(array_file: Path) -> Path:
    """The list of words that belongs to an array: of the same name, else the only one in its folder."""
    named = [array_file.with_suffix(suffix) for suffix in (".txt", ".parquet")]
    beside = sorted(each for pattern in ("*.parquet", "*.txt") for each in array_file.parent.glob(pattern))
    found = [file for file in named if file.is_file()] or beside
    if len(found) != 1:
        expected = f"one .txt or .parquet of words beside {array_file.name}"
        raise InputError("no list of words", where=array_file.as_posix(), expected=expected, got=[file.name for file in found])
    return found[0]


def _lines(file: Path) -> Iterator[str]:
    lines = file.read_bytes()
    check_words(lines if lines.endswith(b"\n") else lines + b"\n", file)
    yield from lines.decode("utf-8").removesuffix("\n").replace("\r\n", "\n").split("\n")


def _parquet_words(file: Path) -> list[str]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        fix = 'Install the batch extra: pip install -e ".[batch]"'
        raise ConfigError("pyarrow is not installed, which reads parquet", where=file.as_posix(), fix=fix) from None
    table = parquet.read_table(file)
    texts = [name for name in table.column_names if str(table.schema.field(name).type) in ("string", "large_string")]
    if len(texts) != 1:
        expected, got = "one column of strings", table.column_names
        raise DataFormatError("no column of words", where=file.as_posix(), expected=expected, got=got)
    numbers = [name for name in table.column_names if str(table.schema.field(name).type).startswith(("int", "uint"))]
    words: list[str] = table.column(texts[0]).to_pylist()
    if len(numbers) == 1:  # a column of row numbers says the order
        order = np.asarray(table.column(numbers[0]).to_numpy())
        words = [words[index] for index in np.argsort(order, kind="stable")]
    return words
