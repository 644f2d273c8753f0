"""`read_corpus`: any corpus, by the name of its format or by its looks."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from models.errors import ConfigError, DataFormatError
from training.tagger.corpora.columns import read_columns
from training.tagger.corpora.conllu import read_conllu
from training.tagger.corpora.jsonl import read_jsonl
from training.tagger.corpora.lines import Line, corpus_files, read_lines
from training.tagger.corpora.sentence import Sentence, cut
from training.tagger.corpora.slash import read_slash

Reader = Callable[..., Iterator[Sentence]]

FORMATS: dict[str, Reader] = {"conllu": read_conllu, "columns": read_columns, "jsonl": read_jsonl, "slash": read_slash}
SUFFIXES: dict[str, frozenset[str]] = {
    "conllu": frozenset({".conllu"}),
    "columns": frozenset({".conll", ".iob", ".iob2", ".bio", ".tsv", ".txt"}),
    "jsonl": frozenset({".jsonl"}),
    "slash": frozenset({".pos", ".txt", ""}),
}
UNER = ("id", "token", "label", "-", "-")  # Universal NER: https://www.universalner.org


def read_corpus(
    path: str | Path,
    format: str = "auto",
    *,
    fold_width: bool = False,
    drop_duplicates: bool = False,
    longest: int | None = None,
    split_sentences: bool = False,
    **options: Any,
) -> Iterator[Sentence]:
    """Read the sentences of a corpus, one after the other.

    Args:
        path: a file, a folder (its files with a fitting suffix, sorted) or a glob; or an fsspec address of one.
        format: conllu, columns, jsonl, slash; auto goes by the suffix, then by the first lines.
        fold_width: full-width letters, digits and punctuation become ASCII, in tokens and text.
        drop_duplicates: keep the first of the lines with the same tokens and labels.
        longest: cut what has more words than this, after 。！？； where it can be.
        split_sentences: cut after every 。！？；.
        options: of the format: see read_conllu, read_columns, read_jsonl and read_slash.

    Raises:
        DataFormatError: a malformed line, named by file, line and field.
        ConfigError: an option the format does not have.
    """
    if longest is not None and longest < 1:
        raise ConfigError("not a length", where="longest", expected="at least 1 word", got=longest)
    if format != "auto" and format not in FORMATS:
        raise ConfigError("unknown format", where="format", expected=", ".join(["auto", *FORMATS]), got=format)
    if format != "auto":
        _check_options(format, options)
    suffixes = frozenset[str]().union(*SUFFIXES.values()) if format == "auto" else SUFFIXES[format]
    files = corpus_files(path, suffixes)
    return _pipeline(files, format, options, fold_width, drop_duplicates, longest, split_sentences)


def _pipeline(
    files: list[Path], format: str, options: dict[str, Any], fold: bool, unique: bool, longest: int | None, every_end: bool
) -> Iterator[Sentence]:
    sentences: Iterable[Sentence] = itertools.chain.from_iterable(_read_file(file, format, options) for file in files)
    if fold:
        sentences = map(_folded, sentences)
    if unique:
        sentences = _unique(sentences)
    for sentence in sentences:
        yield from cut(sentence, longest, every_end)


def _read_file(file: Path, format: str, options: dict[str, Any]) -> Iterator[Sentence]:
    lines = read_lines(file)
    if format == "auto":
        head = list(itertools.islice(lines, 200))
        format, guessed = _guess(file, head)
        options = guessed | options
        _check_options(format, options)
        lines = itertools.chain(head, lines)
    return FORMATS[format](lines, **options)


def _check_options(format: str, options: dict[str, Any]) -> None:
    known = set(list(inspect.signature(FORMATS[format]).parameters)[1:])
    if unknown := sorted(set(options) - known):
        expected = ", ".join(sorted(known | {"fold_width", "drop_duplicates", "longest", "split_sentences"}))
        raise ConfigError("unknown option", where=f"format {format}", expected=expected, got=", ".join(unknown))


def guess_format(file: Path) -> str | None:
    """The format of a file by its suffix and first lines; None where it is no corpus of labelled sentences."""
    known = _looks(file, list(itertools.islice(read_lines(file), 200)))
    return known[0] if known else None


def _guess(file: Path, head: list[Line]) -> tuple[str, dict[str, Any]]:
    """The format of a file and options that fit it."""
    known = _looks(file, head)
    if known is None:
        raise DataFormatError(
            "the format is not clear from the file",
            where=file.as_posix(),
            expected="CoNLL-U, columns, JSON lines or word/tag text",
            got=next((line.text for line in head if line.text.strip()), ""),
            fix=f"Name the format: {', '.join(FORMATS)}",
        )
    return known


def _looks(file: Path, head: list[Line]) -> tuple[str, dict[str, Any]] | None:
    suffix = file.suffix.lower()
    if suffix in (".conllu", ".jsonl"):
        return suffix[1:], {}
    line = next((line.text for line in head if line.text.strip() and not line.text.startswith("# ")), "")
    fields, pieces = line.split("\t"), line.split()
    if len(fields) == 10 and re.match(r"[0-9]", fields[0]):
        return "conllu", {}
    if len(fields) == len(UNER) and fields[0] == "1" and fields[3:] == ["-", "-"]:
        return "columns", {"columns": UNER}
    if suffix in SUFFIXES["columns"] - {".txt"}:
        return "columns", {}
    if pieces and all("/" in piece for piece in pieces):
        return "slash", {}
    if len(fields) == 2 and all(fields):
        return "columns", {}
    return ("jsonl", {}) if line.lstrip().startswith("{") else None


def _folded(sentence: Sentence) -> Sentence:
    from models.tagger.tokens import fold_width

    text = None if sentence.text is None else fold_width(sentence.text)
    return Sentence([fold_width(token) for token in sentence.tokens], sentence.columns, text, sentence.spans, sentence.source)


def _unique(sentences: Iterable[Sentence]) -> Iterator[Sentence]:
    seen: set[tuple[str, ...]] = set()
    for sentence in sentences:
        key = (*sentence.tokens, *(label for name in sorted(sentence.columns) for label in ("\0", *sentence.columns[name])))
        if key not in seen:
            seen.add(key)
            yield sentence
