"""Word vectors from text: Word2Vec (https://arxiv.org/abs/1301.3781) and FastText (https://arxiv.org/abs/1607.04606) with gensim.

train_vectors(["en_ewt-ud-train.conllu", "brown/c[a-r]*"], "vectors", algorithm="skipgram", dim=100)
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import click
import numpy as np
from tqdm import tqdm

from models.errors import ConfigError, DataFormatError, UnprocessableError
from models.tagger.features import EDGE
from models.tagger.tokens import character_spans, fold_width, sentence_slices, word_spans
from models.tagger.vectors import Coverage, VectorTable
from training.tagger.corpora import Sentence, guess_format, read_corpus, split
from training.tagger.corpora.lines import Line, corpus_files, read_lines

Algorithm = Literal["skipgram", "cbow", "fasttext", "fasttext-cbow"]
Unit = Literal["word", "character", "bigram"]
PLAIN = ("text", "json")
# Settings of read_corpus that any labelled corpus takes; of plain text only its width can be folded.
COMMON = frozenset({"fold_width", "drop_duplicates", "longest", "split_sentences"})
Dtype = Literal["float16", "float32", "int8"]
LONGEST = 1000  # tokens of plain text trained as one sentence; gensim cuts at 10,000 without a word


@dataclass(frozen=True)
class Embedding:
    """What `train_vectors` made: the `.npy` file, its table, and how it covers the corpus (each occurrence counts)."""

    path: Path
    table: VectorTable
    coverage: Coverage


def train_vectors(
    corpora: Sequence[str | Path],
    out: str | Path,
    *,
    algorithm: Algorithm = "skipgram",
    dim: int = 100,
    window: int = 5,
    min_count: int = 2,
    epochs: int = 10,
    workers: int = 1,
    seed: int = 1,
    unit: Unit = "word",
    format: str = "auto",
    lower: bool = False,
    max_words: int | None = None,
    dtype: Dtype = "float16",
    ratios: Sequence[float] | None = None,
    part: int = 0,
    contiguous: bool = False,
    **options: Any,
) -> Embedding:
    """Train vectors on corpora or plain text and save them as a table. With one worker the same seed gives the same vectors.

    Args:
        corpora: files, folders or globs.
        out: the table becomes `<out>.npy` and `<out>.words.txt`.
        algorithm: Word2Vec as skipgram or cbow, or FastText.
        dim: length of a vector.
        window: words to each side that count as context.
        min_count: leave out words that are rarer.
        epochs: passes over the corpora.
        unit: word; character; or bigram, every two adjacent characters of a sentence and its two edges.
        format: of the corpora: auto, one of read_corpus, text (one paragraph a line) or json (an array of strings).
        lower: train on lower case.
        max_words: keep the most frequent.
        dtype: as saved; int8 comes with a scale for each dimension, see models.tagger.vectors.
        ratios: train on one part only of each labelled corpus, split as `split(…, ratios, seed, contiguous)` does, so that
            no vector has seen test text.
        part: which of the parts, from 0; -1 is the last.
        contiguous: see `ratios`.
        options: of read_corpus. Where labelled corpora and plain text stand side by side, plain text takes fold_width and
            leaves drop_duplicates, longest, split_sentences and `ratios` to the labelled ones.

    Raises:
        UnprocessableError: no word is frequent enough.
        ConfigError: an option that no corpus here has.
    """
    if algorithm not in ("skipgram", "cbow", "fasttext", "fasttext-cbow") or unit not in ("word", "character", "bigram"):
        expected = "skipgram, cbow, fasttext or fasttext-cbow; word, character or bigram"
        raise ConfigError("unknown algorithm or unit", expected=expected, got=f"{algorithm}, {unit}")
    formats = [_plain_format(each, format) or format for each in corpora]
    _check_options(formats, options, ratios)
    chosen = _Part(ratios, part, seed, contiguous) if ratios is not None else None
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        corpora_read = (_sentences(path, kind, unit, chosen, options) for path, kind in zip(corpora, formats, strict=True))
        stream = _Stream(file, itertools.chain.from_iterable(corpora_read), lower)
        keyed = _fit(stream, algorithm, dim, window, min_count, epochs, workers, seed)
        table = VectorTable(keyed.index_to_key, np.asarray(keyed.vectors, dtype=np.float32))
        path = write_vectors(table, out, max_words, dtype)
        saved = VectorTable.open(path)
        coverage = _covered(saved, stream)
    click.echo(f"{path}: {len(saved)} vectors of {saved.dim}, from {stream.sentences} sentences; {coverage}", err=True)
    return Embedding(path, saved, coverage)


def write_vectors(table: VectorTable, out: str | Path, max_words: int | None = None, dtype: Dtype = "float16") -> Path:
    """Save the first `max_words` rows (tables are sorted by frequency) as a table; returns the `.npy` file."""
    if max_words is not None and max_words < 1:
        raise ConfigError("no words to keep", where="max_words", expected="at least 1", got=max_words)
    if dtype not in ("float16", "float32", "int8"):
        raise ConfigError("unknown type of numbers", where="dtype", expected="float16, float32 or int8", got=dtype)
    matrix = table.vectors(np.arange(len(table))[:max_words])
    if dtype == "float16" and len(matrix) and np.abs(matrix).max() > np.finfo(np.float16).max:
        raise UnprocessableError("a value is too large for float16", where="vectors", fix="Set dtype to float32")
    head = VectorTable(table.words[: len(matrix)], matrix.astype(np.float16) if dtype == "float16" else matrix)
    return (head.quantised() if dtype == "int8" else head).save(out)


@dataclass(frozen=True)
class _Part:
    ratios: Sequence[float]
    part: int
    seed: int
    contiguous: bool

    def of(self, sentences: Iterable[Sentence]) -> list[Sentence]:
        parts = split(list(sentences), self.ratios, self.seed, self.contiguous)
        if not -len(parts) <= self.part < len(parts):
            raise ConfigError("no such part", where="part", expected=f"0 to {len(parts) - 1}, or -1", got=self.part)
        return parts[self.part]


# ---- what is read -------------------------------------------------------------------------------------------------------


def _sentences(path: str | Path, format: str, unit: Unit, part: _Part | None, options: dict[str, Any]) -> Iterator[list[str]]:
    """Token lists of one corpus in the unit asked for."""
    if format in PLAIN:
        yield from _plain(path, format, unit, bool(options.get("fold_width", False)))
        return
    sentences: Iterable[Sentence] = read_corpus(path, format, **options)
    if part is not None:
        sentences = part.of(sentences)
    for sentence in sentences:
        yield _units(sentence.tokens, unit)


def _check_options(formats: Sequence[str], options: dict[str, Any], ratios: Sequence[float] | None) -> None:
    """Refuse what plain text cannot heed; labelled corpora check theirs when they are read."""
    plain = sorted(set(formats) & set(PLAIN))
    if not plain:
        return
    labelled = any(format not in PLAIN for format in formats)
    known = COMMON if labelled else {"fold_width"}
    given = set(options) if ratios is None or labelled else {*options, "ratios"}
    if unknown := sorted(given - known):
        expected = ", ".join(sorted(known))
        raise ConfigError("unknown option", where=f"format {' and '.join(plain)}", expected=expected, got=", ".join(unknown))


def _plain_format(path: str | Path, format: str) -> str | None:
    """text or json where a corpus is not one of labelled sentences."""
    if format != "auto":
        return format if format in PLAIN else None
    first = corpus_files(path, frozenset({".json", ".txt", ".conllu", ".conll", ".iob2", ".jsonl", ".pos", ".tsv", ""}))[0]
    if first.suffix == ".json":
        return "json"
    return None if guess_format(first) else "text"


def _plain(path: str | Path, format: str, unit: Unit, fold: bool) -> Iterator[list[str]]:
    for file in corpus_files(path, frozenset({".json"}) if format == "json" else frozenset({".txt", ""})):
        for text in _json_texts(file) if format == "json" else map(_line_text, read_lines(file)):
            text = fold_width(text) if fold else text
            spans = word_spans(text) if unit == "word" else character_spans(text)
            for part in sentence_slices(text, spans, LONGEST):
                yield _units([text[start:end] for start, end in spans[part]], unit)


def _line_text(line: Line) -> str:
    return line.text


def _json_texts(file: Path) -> Iterator[str]:
    try:
        texts = json.loads(file.read_bytes())
    except ValueError as error:
        raise DataFormatError("not JSON", where=file.as_posix(), expected="an array of strings", got=error) from None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataFormatError("not an array of strings", where=file.as_posix(), expected='["A sentence.", …]')
    yield from texts


def _units(tokens: Sequence[str], unit: Unit) -> list[str]:
    if unit == "word":
        return list(tokens)
    characters = [character for token in tokens for character in token if not character.isspace()]
    if unit == "character":
        return characters
    return [left + right for left, right in itertools.pairwise([EDGE, *characters, EDGE])]


class _Stream:
    """Sentences kept in a temporary file, so that each epoch reads them in bounded memory without cutting text again."""

    def __init__(self, file: IO[str], sentences: Iterable[list[str]], lower: bool) -> None:
        self._file = file
        self.sentences, self.tokens = 0, 0
        for tokens in sentences:
            if tokens:
                file.write(json.dumps([token.lower() for token in tokens] if lower else tokens) + "\n")
                self.sentences, self.tokens = self.sentences + 1, self.tokens + len(tokens)

    def __iter__(self) -> Iterator[list[str]]:
        self._file.seek(0)
        for line in self._file:
            yield json.loads(line)


# ---- gensim -------------------------------------------------------------------------------------------------------------


def _fit(
    stream: _Stream, algorithm: Algorithm, dim: int, window: int, min_count: int, epochs: int, workers: int, seed: int
) -> Any:
    """The KeyedVectors of a trained model."""
    try:
        from gensim.models import FastText, Word2Vec
    except ImportError:
        raise ConfigError("gensim is not installed", fix='Install the training extra: pip install -e ".[train]"') from None
    kind = FastText if algorithm.startswith("fasttext") else Word2Vec
    skip_gram = int(algorithm in ("skipgram", "fasttext"))
    model = kind(vector_size=dim, window=window, min_count=min_count, sg=skip_gram, workers=workers, seed=seed)
    model.build_vocab(corpus_iterable=stream)
    if not len(model.wv):
        fix = "Lower min_count or give more text"
        raise UnprocessableError("no word is frequent enough", expected=f"words that occur {min_count} times", fix=fix)
    with ExitStack() as stack:
        model.train(
            corpus_iterable=_Progress(stream, epochs, stack),
            total_examples=stream.sentences,
            total_words=stream.tokens,
            epochs=epochs,
        )
    return model.wv


class _Progress:
    """Counts what gensim reads: a bar on a terminal, else a line an epoch."""

    def __init__(self, stream: _Stream, epochs: int, stack: ExitStack) -> None:
        self.stream, self.epochs, self.epoch = stream, epochs, 0
        self.terminal = sys.stderr.isatty()
        bar = tqdm(total=epochs * stream.sentences, unit=" sentences", desc="vectors", disable=not self.terminal)
        self.bar = stack.enter_context(bar)

    def __iter__(self) -> Iterator[list[str]]:
        for sentence in self.stream:
            yield sentence
            self.bar.update()
        self.epoch += 1
        if not self.terminal:
            click.echo(f"epoch {self.epoch} of {self.epochs}, {self.stream.tokens} tokens", err=True)


def _covered(table: VectorTable, stream: _Stream) -> Coverage:
    counts = np.zeros(3, np.int64)
    sentences = iter(stream)
    while block := list(itertools.islice(sentences, 10_000)):
        found = table.coverage([token for sentence in block for token in sentence])
        counts += (found.exact, found.lower, found.unknown)
    return Coverage(*counts.tolist())
